"""`cdgen stream`: blocks, their documents, the exactness of the mix and the speed, as a user sees them."""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import cdgen
from cdgen.errors import UsageError
from cdgen.reports.stream import look, measure, stream_text
from cdgen.text.tokenizer import Tokenizer

CORPUS = Path(__file__).parents[2] / "shards/golden/format-1"
TOKENIZER = Tokenizer.load(CORPUS / "tokenizer")


def run(*arguments: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cdgen", "stream", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == exit_code and "Traceback" not in done.stderr, done.stderr
    return done


def test_json_has_every_block_with_its_documents_and_the_speed() -> None:
    """The pieces of a block, put together, are the block."""
    which = ("--block", "48", "-n", "2", "--first", "5", "--seed", "3")
    seen = json.loads(run(str(CORPUS), *which, "--text", "--measure", "--json").stdout)
    blocks = cdgen.blocks(CORPUS, block=48, seed=3)

    assert (seen["num_blocks"], seen["num_left_tokens"]) == (len(blocks), blocks.num_left_tokens)
    assert [block["number"] for block in seen["blocks"]] == [5, 6]
    for block in seen["blocks"]:
        ids = [one for piece in block["pieces"] for one in piece["input_ids"]]
        assert ids == blocks[block["number"]]["input_ids"].tolist()
        for piece in block["pieces"]:
            assert piece["stop"] - piece["start"] == len(piece["input_ids"])
            assert piece["text"] and piece["text"] in TOKENIZER.decode([_ids(piece)])[0]
    bounds = {bound.source: (bound.share, bound.low, bound.high) for bound in blocks.bounds()}
    assert bounds == {
        share["source"]: (share["share"], share["low"], share["high"]) for share in seen["shares"]
    }
    assert seen["speed"]["first_block_s"] > 0 and seen["speed"]["tokens_per_s"] > 0


def _ids(piece: dict[str, Any]) -> Any:
    """The ids of the document that a piece names, [start, stop)."""
    corpus = cdgen.open_corpus(CORPUS)
    found = [s for kind in ("real", "synthetic") for s in corpus.samples(kind)]
    (sample,) = [sample for sample in found if sample.key == piece["key"]]
    return sample.ids[piece["start"] : piece["stop"]]


def test_people_see_the_run_its_sources_and_text() -> None:
    shown = run(
        str(CORPUS), "--block", "32", "-n", "1", "--text", "--synthetic", "0.4", "--repeat", "allow"
    ).stdout.splitlines()
    blocks = cdgen.blocks(CORPUS, block=32, synthetic=0.4, repeat="allow")

    assert shown[0] == (
        f"{CORPUS}, train split, seed 0: {len(blocks):,} blocks of 32 tokens in an epoch, "
        f"{blocks.num_left_tokens} tokens left over"
    )
    assert shown[2].startswith("  synthetic  40.0000% of all tokens, within -")
    assert shown[2].endswith(f"read {blocks.passes()['synthetic']:.2f} times")
    assert shown[4] == "block 0" and shown[5].startswith(f"  {blocks.at(0)[0]['source']} ")


def test_a_block_beyond_the_end_is_one_line() -> None:
    done = run(str(CORPUS), "--block", "48", "--first", "9999", exit_code=2)
    assert "the epoch has 35 blocks of 48 tokens" in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_the_speed_is_tokens_by_the_clock() -> None:
    """A clock that ticks once a second when it is asked; the run is shorter and read again."""
    blocks = cdgen.blocks(CORPUS, block=48)
    ticks = count()
    speed = measure(lambda: blocks, seconds=5, clock=lambda: float(next(ticks)))

    assert speed.first_block_s == 1 and speed.batch_size == len(blocks)
    assert speed.seconds >= 5 and speed.num_tokens % (len(blocks) * 48) == 0
    assert speed.tokens_per_s == speed.num_tokens / speed.seconds
    with pytest.raises(UsageError, match="no block of 5,000"):
        measure(lambda: cdgen.blocks(CORPUS, block=5000), seconds=5, clock=lambda: 0.0)


def test_text_cannot_steer_the_terminal() -> None:
    """Tokens may decode to anything."""
    blocks = cdgen.blocks(CORPUS, block=48)

    class Steering(Tokenizer):
        def decode(self, batches: Any) -> list[str]:
            return ["\x1b[2Jone\n\n\rtwo" for _ in batches]

    hostile = Steering(TOKENIZER.backend, bos=None, eos=None)
    found = look(blocks, [0], corpus="c", split="train", seed=0, tokenizer=hostile, speed=None)
    assert "\x1b" not in stream_text(found) and "\r" not in stream_text(found)
    assert "    one" not in stream_text(found) and "[2Jone" in stream_text(found)
