"""What the readers take from files, and what they say of files that are not right."""

import csv
import json
from pathlib import Path

import pytest

from cdgen.errors import UsageError
from cdgen.evaluation.places import EvalData, zipped_rows
from cdgen.evaluation.reading import read_reading
from cdgen.evaluation.tasks import read_task


def test_pairs_take_their_part_from_the_item_or_the_file(data: Path) -> None:
    blimp = read_task("blimp", EvalData(data), None).items
    assert [item.part for item in blimp] == ["agreement", "agreement", "agreement", "order"]
    (turns,) = read_task("blimp_supplement", EvalData(data), None).items
    assert (turns.part, turns.options[0].text) == ("turns", "A: Who?\nB: Anna.")


def test_ewok_scores_the_target_after_its_context(data: Path) -> None:
    (item,) = read_task("ewok", EvalData(data), None).items
    good, bad = item.options
    assert item.part == "places"
    assert good.text == "The ball is in the box. The box is full."
    assert [one.text[one.start :] for one in (good, bad)] == [
        " The box is full.",
        " The box is empty.",
    ]


def test_entity_tracking_tags_what_its_score_hides(data: Path) -> None:
    items = read_task("entity_tracking", EvalData(data), None).items
    assert [(item.part, item.tags) for item in items[:3]] == [
        ("regular/0_ops", ("equal_length",)),
        ("regular/0_ops", ("nothing",)),
        ("regular/1_ops", ("equal_length",)),
    ]


def test_limit_takes_the_first_of_each_part(data: Path) -> None:
    items = read_task("blimp", EvalData(data), 1).items
    assert [(item.part, item.name) for item in items] == [("agreement", "a:0"), ("order", "b:0")]


def test_the_digest_is_of_names_and_bytes(data: Path) -> None:
    before = read_task("blimp", EvalData(data), None).digest
    assert read_task("blimp", EvalData(data), 1).digest == before
    file = data / "blimp_filtered/b.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert read_task("blimp", EvalData(data), None).digest != before


@pytest.mark.parametrize("layout", ["babylm2025", "full_eval", "evaluation_data/full_eval"])
def test_known_layouts(data: Path, tmp_path: Path, layout: str) -> None:
    target = tmp_path / "elsewhere" / layout
    target.parent.mkdir(parents=True)
    data.rename(target)
    assert read_task("blimp", EvalData(tmp_path / "elsewhere"), None).items


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"a\.jsonl:2: not a JSON object"),
        ("[1]", r"a\.jsonl:2: not a JSON object"),
        ('{"sentence_good": "x"}', r"a\.jsonl:2: sentence_bad must be a text, found no such field"),
        (
            '{"sentence_good": "x", "sentence_bad": 3}',
            r"a\.jsonl:2: sentence_bad must be a text, found 3",
        ),
    ],
)
def test_a_damaged_line_is_named(data: Path, line: str, said: str) -> None:
    file = data / "blimp_filtered/a.jsonl"
    first = file.read_text(encoding="utf-8").splitlines()[0]
    file.write_text(f"{first}\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_task("blimp", EvalData(data), None)


def test_missing_data_say_where_they_belong(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match="blimp reads blimp_filtered from a local copy: name its folder with --data DIR",
    ):
        read_task("blimp", EvalData(None), None)
    with pytest.raises(UsageError, match="no such folder"):
        read_task("blimp", EvalData(tmp_path / "nowhere"), None)
    with pytest.raises(UsageError, match=r"wordorder_icelandic: no \*_icelandic\.csv"):
        read_task("wordorder_icelandic", EvalData(data), None)
    with pytest.raises(UsageError, match="its terms forbid handing the items on as plain text"):
        read_task("ewok", EvalData(tmp_path), None)


def test_a_zip_is_read_in_memory_and_distrusted(tmp_path: Path) -> None:
    import zipfile

    file = tmp_path / "entity_tracking.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("folder/regular.jsonl", '{"numops": 0}\n')
    assert list(zipped_rows(file, "regular.jsonl", b"x")) == [
        (f"{file}(regular.jsonl):1", {"numops": 0})
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["entity_tracking.zip"]
    with pytest.raises(UsageError, match=r"has no ambiref\.jsonl"):
        list(zipped_rows(file, "ambiref.jsonl", b"x"))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UsageError, match="cannot be unpacked"):
        list(zipped_rows(file, "regular.jsonl", b"x"))


READING = """\
,item,word,prev_item,prev_word,Subtlex_log10,length,context_length,prev_length,self_paced_reading_time,RTfirstfix,\
RTfirstpass,RTgopast,RTrightbound
0,,Anna,,,9.0,4,0,,300.0,70,75,100,80
1,Anna,sleeps,None,Anna,4.5,6,1,4,310.5,,75,100,80
2,Anna sleeps,well,Anna,sleeps,5,4,2,6,290,70,75,100,80
"""


def test_reading_keeps_the_pipeline_s_words_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "reading/reading_data.csv"
    file.parent.mkdir()
    file.write_text(READING, encoding="utf-8")
    first, second, third = read_reading("reading", EvalData(tmp_path), None).items
    assert (first.word.context, first.before, first.times) == ("None", None, (300.0,))
    assert second.before is None  # pandas reads None as nothing
    assert third.before is not None and third.before.word == "sleeps"
    eye = read_reading("eye_tracking", EvalData(tmp_path), None).items
    assert str(eye[1].times) == "(nan, 75.0, 100.0, 80.0)"


def test_a_row_with_too_few_fields_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "wordorder"
    folder.mkdir()
    with (folder / "obj_faroese.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["sen_str", "swapped_sen_str"], ["Hon las bókina .", "x"], ["ein"]]
        )
    with pytest.raises(UsageError, match=r"obj_faroese\.csv:3: not as many fields as the header"):
        read_task("wordorder_faroese", EvalData(tmp_path), None)


def test_wug_items_are_two_texts_and_a_ratio(data: Path) -> None:
    items = read_task("wug_adj", EvalData(data), None).items
    assert items[1].inputs == (0.1,) and len(items[1].options) == 2
    (file,) = (data / "wug_adj_nominalization").iterdir()
    file.write_text(json.dumps({"sentences": "only one", "ratio": 1.0}), encoding="utf-8")
    with pytest.raises(UsageError, match="two texts with a tab between them"):
        read_task("wug_adj", EvalData(data), None)
