"""Names become files, from the package's own data or from the checkout, and from nowhere else."""

from pathlib import Path

import pytest

from cdgen import resources
from cdgen.errors import BuildError, UsageError


def lay_out(root: Path, *files: str) -> Path:
    """An installation under `root` that holds `files`; returns its package folder."""
    package = root / "cdgen"
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("version: 1\n")
    package.mkdir(parents=True, exist_ok=True)
    return package


def test_this_installation_has_the_quickstart_and_its_text() -> None:
    recipe = resources.resource("recipes", "quickstart")

    assert recipe.name == "quickstart.yaml"
    assert (recipe.parent / "quickstart" / "fairytales.txt.zst").stat().st_size > 500_000
    assert (recipe.parent / "quickstart" / "NOTICE.md").is_file()


def test_this_installation_has_the_local_builder() -> None:
    assert "local" in resources.names("builders")
    assert resources.resource("builders", "local").is_file()


def test_every_name_leads_to_a_file() -> None:
    for kind in ("recipes", "builders"):
        for name in resources.names(kind):
            assert resources.resource(kind, name).is_file()


def test_the_packaged_file_wins_over_a_folder_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("pyproject.toml", "cdgen/data/recipes/a.yaml", "recipes/a.yaml", "recipes/b.yaml")
    package = lay_out(tmp_path, *files)
    monkeypatch.setattr(resources, "_PACKAGE", package)

    assert resources.names("recipes") == ("a",)
    assert resources.resource("recipes", "a") == package / "data" / "recipes" / "a.yaml"


def test_a_checkout_serves_its_own_folder_and_only_its_yaml_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("pyproject.toml", "builders/ray.yaml", "builders/local.yaml", "builders/slurm.sh")
    monkeypatch.setattr(resources, "_PACKAGE", lay_out(tmp_path, *files))

    assert resources.names("builders") == ("local", "ray")
    assert resources.resource("builders", "ray") == tmp_path / "builders" / "ray.yaml"


def test_a_neighbour_in_site_packages_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", lay_out(tmp_path, "builders/local.yaml"))

    with pytest.raises(BuildError, match="missing from this installation; reinstall cdgen"):
        resources.names("builders")


def test_an_unknown_name_is_answered_with_the_nearest_and_all_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("cdgen/data/recipes/quickstart.yaml", "cdgen/data/recipes/tiny.yaml")
    monkeypatch.setattr(resources, "_PACKAGE", lay_out(tmp_path, *files))

    with pytest.raises(UsageError) as caught:
        resources.resource("recipes", "quikstart")

    assert str(caught.value) == (
        "cdgen has no recipe 'quikstart'; did you mean 'quickstart'? "
        "It has: quickstart, tiny. A path to a file works too."
    )


def test_what_lies_in_a_folder_is_found_by_both_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("cdgen/data/recipes/z.yaml", "cdgen/data/recipes/paper/runs/b.yaml")
    monkeypatch.setattr(resources, "_PACKAGE", lay_out(tmp_path, *files))

    assert resources.names("recipes") == ("z", "paper/runs/b")
    assert resources.resource("recipes", "paper/runs/b").read_text() == "version: 1\n"
    assert resources.collections() == ("paper",)
    assert resources.collection("paper").name == "paper"
    with pytest.raises(UsageError, match="no folder of recipes 'papr'; it has: paper"):
        resources.collection("papr")
    with pytest.raises(UsageError, match=r"It has: z, and those in paper \(`cdgen init --list`\)"):
        resources.resource("recipes", "b")


@pytest.mark.parametrize("name", ["../recipes/a", "a.yaml", "", "/etc/passwd", "sub/../a", "b"])
def test_a_path_is_not_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files = ("cdgen/data/recipes/a.yaml", "cdgen/data/recipes/sub/b.yaml")
    monkeypatch.setattr(resources, "_PACKAGE", lay_out(tmp_path, *files))

    with pytest.raises(UsageError, match="cdgen has no recipe"):
        resources.resource("recipes", name)
