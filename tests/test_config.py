"""zmend.yaml: what is understood, and what is said about what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import check, load
from pipeline.errors import ConfigError
from pipeline.recipe import Recipe

GOOD = {"volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": "mended.zarr"}}


def test_the_configuration_of_the_readme_is_understood(tmp_path: Path) -> None:
    text = """
volume: {path: raw.zarr, level: 0, voxel_size_nm: [45, 4.6, 4.6]}
flags: flags.csv
output: {path: mended.zarr, mode: volume}
recipe: {restorer: diffusion, weights: default, steps: 4, seed: 7}
site: {kind: local, workers: 2}
"""
    path = tmp_path / "zmend.yaml"
    path.write_text(text)
    config = load(path)
    assert config.volume.path == str(tmp_path / "raw.zarr"), "paths are relative to the file"
    assert config.recipe.seed == 7
    assert config.site.workers == 2
    assert config.recipe.weights == "default", "a name is not a path"


def test_urls_and_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "zmend.yaml"
    path.write_text("volume: {path: 's3://bucket/raw.zarr'}\nflags: /data/flags.csv\noutput: {path: out.zarr}\n")
    config = load(path)
    assert (config.volume.path, config.flags) == ("s3://bucket/raw.zarr", "/data/flags.csv")


@pytest.mark.parametrize(
    ("change", "what", "where", "do"),
    [
        ({"volum": {}}, "unknown key 'volum'", "zmend.yaml, volum", "did you mean 'volume'?"),
        ({"flags": "x", "outptu": {"path": "x"}, "output": None}, "unknown key 'outptu'", "outptu", "did you mean 'output'?"),
        ({"recipe": {"step": 4}}, "unknown key 'step'", "zmend.yaml, recipe.step", "did you mean 'steps'?"),
        ({"site": {"gpu": 4}}, "unknown key 'gpu'", "site.gpu", "did you mean 'gpus'?"),
        ({"output": {"zzz": 4}}, "unknown key 'zzz'", "output.zzz", "known keys here: chunk_px, clone"),
        ({"recipe": {"certificate": 1}}, "unknown key 'certificate'", "recipe.certificate", "'certificate' belongs at the top level"),
        ({"chunk_px": 64}, "unknown key 'chunk_px'", "chunk_px", "'chunk_px' belongs under 'output'"),
        ({"recipe": {"steps": "many"}}, "'steps' is 'many'", "recipe.steps", "mend the value"),
        ({"recipe": {"steps": 0}}, "'steps' is 0", "recipe.steps", "mend the value"),
        ({"site": {"slab_px": 0}}, "'slab_px' is 0: input should be greater than or equal to 16", "zmend.yaml, site.slab_px", "mend the value"),
        ({"output": {}}, "key 'path' is missing", "output.path", "add 'path:'"),
        ({"output": {"path": "x", "mode": "both"}}, "'mode' is 'both'", "output.mode", "mend the value"),
        ({"volume": "raw.zarr"}, "'volume' is 'raw.zarr'", "volume", "mend the value"),
    ],
)
def test_what_is_not_understood_is_named_with_a_remedy(change, what, where, do) -> None:
    with pytest.raises(ConfigError) as e:
        check({**GOOD, **change})
    assert what in e.value.what
    assert "constrained" not in str(e.value)
    assert where in e.value.where
    assert do in e.value.do


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("volume: [", "is not YAML"),
        ("", "holds no keys"),
        ("- a\n- b\n", "holds no keys"),
        ("\x00", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "zmend.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as e:
        load(tmp_path / "nowhere.yaml")
    assert "No such file" in e.value.why


def test_the_recipe_digest_follows_everything_that_can_change_a_voxel() -> None:
    def of(restorer: str = "r", nm: float = 4.6, level: int = 0, **kw: object) -> str:
        return Recipe.model_validate(kw).digest(restorer, (45.0, nm, nm), level)

    base = of()
    assert of() == base
    changed = [of(seed=1), of(steps=5), of(batch=2), of(feather_px=4), of(options={"temperature": 0.5}), of(restorer="s"),
               of(nm=8.0), of(level=1), of(intensity=(0.0, 200.0))]  # fmt: skip
    assert len({base, *changed}) == len(changed) + 1
    assert of(weights="/elsewhere/same.safetensors") == base, "weights count by content, through the restorer's digest"
