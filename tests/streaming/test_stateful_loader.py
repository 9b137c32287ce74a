"""torchdata's StatefulDataLoader: stopped anywhere, with or without workers, it goes on with the next batch."""

from pathlib import Path

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

import cdgen

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"


@pytest.mark.filterwarnings("ignore:'set_vital':UserWarning")  # torchdata's
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_stopped_loader_goes_on(workers: int, stop: int) -> None:
    def loader() -> StatefulDataLoader:
        stream = cdgen.stream(GOLDEN, block=32, batch_size=4, rank=0, world_size=1)
        return StatefulDataLoader(stream, batch_size=None, num_workers=workers)

    wanted = [batch["input_ids"].tolist() for batch in loader()]
    first, got = loader(), []
    for batch in first:
        got.append(batch["input_ids"].tolist())
        if len(got) == stop:
            state = first.state_dict()
            break
    second = loader()
    second.load_state_dict(state)
    got += [batch["input_ids"].tolist() for batch in second]

    assert got == wanted and len(wanted) > stop + 1
