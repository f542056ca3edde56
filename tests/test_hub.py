"""The Hugging Face Hub: the real client over HTTP, against a small Hub of the tests' own."""

from __future__ import annotations

import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from conftest import ROOT, flags, light
from drawn import quick
from hub_server import HubServer
from huggingface_hub import HfApi, ModelCard as HubCard, constants
from safetensors.torch import load_file, save_file

import unetzoo
from unetzoo import ConfigError, HubError, WeightsError, cli, drawing, trained, zoo
from unetzoo.files import reaching
from unetzoo.saving import cards, pulling, records

THREE = ("README.md", "config.json", "model.safetensors")


def small(name: str = "unet", **options: object) -> unetzoo.SegmentationModel:
    return unetzoo.create(name, **{"base_channels": 2, **options}).eval()


def same(a: unetzoo.SegmentationModel, b: unetzoo.SegmentationModel) -> bool:
    images = torch.rand(1, a.config.in_channels, 33, 47)
    return a.config == b.config and torch.equal(a(images), b(images))


def reason(*arguments: object, **options: object) -> str:
    with pytest.raises(HubError) as caught:
        unetzoo.from_pretrained(*arguments, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    "name",
    ["unet", "unetpp_resnet18", pytest.param("unet3p_resnet18", marks=pytest.mark.slow)],
)
def test_push_and_pull_give_the_same_model(hub: HubServer, name: str) -> None:
    options = {**light(name), **flags(name), "in_channels": 4, "class_names": ["a", "b", "c"], "mean": [0.1] * 4}
    if name == "unetpp_resnet18":
        options["levels"] = 2  # of whose encoder most is left out
    model = quick(name, **options, std=[0.2] * 4).eval()
    pushed = unetzoo.push_to_hub(model, "me/it")
    for source in ("me/it", "hf-hub:me/it", str(pushed), f"me/it@{pushed.commit}"):
        assert same(unetzoo.from_pretrained(source), model)
    assert same(unetzoo.create("hf-hub:me/it"), model)
    assert same(torch.hub.load(str(ROOT), "from_pretrained", "me/it", source="local"), model)


def test_one_commit_of_three_files(hub: HubServer) -> None:
    model = small(num_classes=2, class_names=["dark", "light"])
    pushed = unetzoo.push_to_hub(model, "me/it", commit_message="the first", private=True)
    repo = hub.repos["me/it"]
    assert repo.private
    commit = repo.commits[-1]
    assert (commit.oid, commit.message, commit.parent) == (pushed.commit, "the first", repo.commits[0].oid)
    assert sorted(commit.operations) == sorted(THREE)
    assert unetzoo.ModelConfig.from_json(commit.files["config.json"].decode()) == model.config
    assert pushed.url == f"{hub.endpoint}/me/it/commit/{pushed.commit}"
    assert [r.path for r in hub.requests if r.method == "PUT"] != []


@pytest.mark.parametrize("form", ["folder", "file"])
def test_what_was_saved_can_be_pushed(hub: HubServer, tmp_path: Path, form: str) -> None:
    model = small()
    if form == "folder":
        unetzoo.save_pretrained(model, tmp_path / "it", card=unetzoo.ModelCard(license="mit"))
        (tmp_path / "it" / "stray.tmp").write_text("not to be pushed", encoding="utf-8")
        unetzoo.push_to_hub(tmp_path / "it", "me/it")
        content = (tmp_path / "it" / "model.safetensors").read_bytes()
        assert "license: mit" in hub.repos["me/it"].commits[-1].files["README.md"].decode()
    else:
        unetzoo.save(model, tmp_path / "it.safetensors")
        unetzoo.push_to_hub(tmp_path / "it.safetensors", "me/it")
        content = (tmp_path / "it.safetensors").read_bytes()
    files = hub.repos["me/it"].commits[-1].files
    assert sorted(files) == [".gitattributes", *THREE]
    assert files["model.safetensors"] == content
    assert same(unetzoo.from_pretrained("me/it"), model)


def test_a_commit_is_the_same_model_for_ever(hub: HubServer) -> None:
    first, second = small(), small(num_classes=3)
    old = unetzoo.push_to_hub(first, "me/it")
    unetzoo.push_to_hub(second, "me/it")
    assert same(unetzoo.from_pretrained(str(old)), first)
    assert same(unetzoo.from_pretrained("me/it", revision=old.commit), first)
    assert same(unetzoo.from_pretrained("me/it"), second)


def test_who_pushed_gets_what_he_pushed(hub: HubServer) -> None:
    first, second = small(), small()
    unetzoo.push_to_hub(first, "me/it")
    assert same(unetzoo.from_pretrained("me/it"), first)
    unetzoo.push_to_hub(second, "me/it")
    assert same(unetzoo.from_pretrained("me/it"), second)


def test_a_push_that_changes_nothing_leaves_the_cache_as_it_is(hub: HubServer, tmp_path: Path) -> None:
    unetzoo.save(small(), tmp_path / "a.safetensors")
    unetzoo.push_to_hub(tmp_path / "a.safetensors", "me/it")
    unetzoo.from_pretrained("me/it")
    commits = len(hub.repos["me/it"].commits)
    unetzoo.push_to_hub(tmp_path / "a.safetensors", "me/it")
    assert len(hub.repos["me/it"].commits) == commits
    unetzoo.from_pretrained("me/it", local_files_only=True)


@pytest.mark.parametrize("name", unetzoo.list_models(pretrained=True))
def test_a_trained_model_of_the_package_is_pushed_by_name_with_its_card(hub: HubServer, name: str) -> None:
    unetzoo.push_to_hub(name, "me/copy")
    files = hub.repos["me/copy"].commits[-1].files
    assert files["model.safetensors"] == trained.weights_of(name).read_bytes()
    card = trained.card_of(name).read_text(encoding="utf-8")
    pushed = files["README.md"].decode()
    assert card.partition("\n")[2].strip() in pushed
    assert "\nlicense: mit\n" in pushed
    unetzoo.push_to_hub(name, "me/copy", card=unetzoo.ModelCard(license="apache-2.0"))
    assert "\nlicense: apache-2.0\n" in hub.repos["me/copy"].commits[-1].files["README.md"].decode()
    drawn, _ = drawing.draw_nuclei(96, 96)
    here, there = (unetzoo.Predictor(source)(drawn).probabilities for source in (name, "hf-hub:me/copy"))
    assert torch.equal(here, there)


def test_what_is_in_the_cache_needs_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    pushed = unetzoo.push_to_hub(model, "me/it")
    unetzoo.from_pretrained("me/it")
    hub.requests.clear()
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was touched"))
    for source in ("me/it", str(pushed)):
        assert same(unetzoo.from_pretrained(source), model)
        assert same(unetzoo.from_pretrained(source, local_files_only=True), model)
    assert hub.requests == []


def test_refresh_asks_for_what_others_pushed(hub: HubServer, tmp_path: Path) -> None:
    first, second = small(), small()
    unetzoo.push_to_hub(first, "me/it")
    unetzoo.from_pretrained("me/it")
    unetzoo.save(second, tmp_path / "second.safetensors")
    hub.repos["me/it"].commit({"model.safetensors": (tmp_path / "second.safetensors").read_bytes()})
    assert same(unetzoo.from_pretrained("me/it"), first)
    assert same(unetzoo.from_pretrained("me/it", refresh=True), second)
    assert same(unetzoo.from_pretrained("me/it"), second)


def test_a_branch_that_moves_on_during_a_pull_gives_no_mixture(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = small(), small(num_classes=2)
    unetzoo.push_to_hub(first, "me/it")
    unetzoo.save_pretrained(second, tmp_path / "second")
    files = {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}

    def read_config(path: Path) -> unetzoo.ModelConfig:
        hub.repos["me/it"].commit(files)
        return records.read_config(path)

    monkeypatch.setattr("unetzoo.saving.pulling.read_config", read_config)
    assert same(unetzoo.from_pretrained("me/it"), first)


def test_a_branch_that_moves_on_during_a_push_is_not_overwritten(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = unetzoo.push_to_hub(small(), "me/it")
    repo = hub.repos["me/it"]

    def write_card(*arguments: object) -> str:
        repo.commit({"notes.txt": b"by somebody else"})
        return cards.write_card(*arguments)

    monkeypatch.setattr("unetzoo.saving.publishing.write_card", write_card)
    with pytest.raises(HubError) as caught:
        unetzoo.push_to_hub(small(), "me/it", parent_commit=first.commit)
    assert caught.value.reason == "conflict"
    assert repo.find().operations == ("notes.txt",)


def test_only_what_is_missing_is_fetched(hub: HubServer) -> None:
    unetzoo.push_to_hub(small(), "me/it")
    unetzoo.from_pretrained("me/it")
    hub.requests.clear()
    unetzoo.from_pretrained("me/it", refresh=True)
    assert not [str(r) for r in hub.requests if (r.method == "GET" and "/resolve/" in r.path) or "/lfs/" in r.path]


def test_a_cache_of_one_s_own(hub: HubServer, tmp_path: Path) -> None:
    model = small()
    unetzoo.push_to_hub(model, "me/it")
    place = unetzoo.pull_from_hub("me/it", cache_dir=tmp_path / "own")
    assert place.is_relative_to(tmp_path / "own")
    assert set(THREE) <= {path.name for path in place.iterdir()}
    assert same(unetzoo.from_pretrained(place), model)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_loading_options_reach_the_model(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    unetzoo.push_to_hub(small(), "me/it")
    model = unetzoo.create("hf-hub:me/it", num_classes=4, dtype=torch.float16)
    assert model.config.num_classes == 4
    assert model.head.conv.weight.dtype == torch.float16
    with pytest.raises(ConfigError, match="unknown option 'num_clases'; did you mean 'num_classes'"):
        unetzoo.from_pretrained("me/it", num_clases=4)
    with pytest.raises(ConfigError, match="unknown option 'deep_supervision'"):
        unetzoo.create("hf-hub:me/it", deep_supervision=True)


def test_branches_pull_requests_and_conflicts(hub: HubServer) -> None:
    model = small()
    first = unetzoo.push_to_hub(model, "me/it")
    repo = hub.repos["me/it"]
    repo.branches["dev"] = first.commit
    on_branch = unetzoo.push_to_hub(small(), "me/it", revision="dev")
    assert repo.branches == {"main": first.commit, "dev": on_branch.commit}
    asked = unetzoo.push_to_hub(small(), "me/it", create_pr=True)
    assert repo.branches["main"] == first.commit
    assert asked.commit == repo.branches["refs/pr/1"]
    assert "/discussions/1" in asked.url
    assert same(unetzoo.from_pretrained("me/it"), model)
    unetzoo.push_to_hub(small(), "me/it", parent_commit=first.commit)
    with pytest.raises(HubError) as caught:
        unetzoo.push_to_hub(small(), "me/it", parent_commit=first.commit)
    assert caught.value.reason == "conflict"
    with pytest.raises(HubError, match=r"me/it .*already.*no pull request"):
        unetzoo.push_to_hub(unetzoo.from_pretrained("me/it"), "me/it", create_pr=True)
    with pytest.raises(HubError, match="not at 0000"):
        unetzoo.push_to_hub(unetzoo.from_pretrained("me/it"), "me/it", parent_commit="0" * 40)
    with pytest.raises(HubError) as caught:
        unetzoo.push_to_hub(small(), "me/it", revision="missing")
    assert caught.value.reason == "revision"


def test_nothing_private_goes_to_a_public_place(hub: HubServer) -> None:
    unetzoo.push_to_hub(small(), "me/it")
    commits = len(hub.repos["me/it"].commits)
    with pytest.raises(HubError, match=r"me/it .*public.*nothing .*pushed"):
        unetzoo.push_to_hub(small(), "me/it", private=True)
    assert len(hub.repos["me/it"].commits) == commits


def test_the_model_of_another_library_is_not_pushed_over(hub: HubServer) -> None:
    hub.add_repo("me/theirs", files={"config.json": b'{"encoder_name": "resnet18"}', "model.safetensors": b"x"})
    with pytest.raises(HubError, match=r"me/theirs .*another library.*nothing .*pushed") as caught:
        unetzoo.push_to_hub(small(), "me/theirs")
    assert caught.value.reason == "conflict"
    assert len(hub.repos["me/theirs"].commits) == 2


def test_damaged_files_are_not_pushed(hub: HubServer, tmp_path: Path) -> None:
    unetzoo.save(small(), tmp_path / "it.safetensors")
    content = bytearray((tmp_path / "it.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "it.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged"):
        unetzoo.push_to_hub(tmp_path / "it.safetensors", "me/it")
    with pytest.raises(WeightsError, match=r"no file .*missing'$"):
        unetzoo.push_to_hub(tmp_path / "missing", "me/it")
    with pytest.raises(ConfigError, match=r"a unetzoo\.ModelCard is needed"):
        unetzoo.push_to_hub(small(), "me/it", card={"license": "mit"})
    assert hub.requests == []


def test_each_refusal_says_what_to_do(hub: HubServer, tmp_path: Path) -> None:
    pushed = unetzoo.push_to_hub(small(), "me/it")
    files = hub.repos["me/it"].find(pushed.commit).files
    hub.add_repo("other/hidden", files=files, private=True)
    hub.add_repo("other/gated", files=files, gated=True)
    hub.add_repo("other/text", files={"README.md": b"hello"})
    hub.add_repo("other/their_format", files={"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"})
    newer = files["config.json"].replace(b'"format_version": 6', b'"format_version": 7')
    hub.add_repo("other/newer", files={**files, "config.json": newer})
    for source, options, expected, words in (
        ("me/missing", {}, "missing", "check the name"),
        ("other/hidden", {}, "missing", "log in"),
        ("other/gated", {}, "gated", "accept its conditions"),
        ("me/it", {"token": "hf_wrong"}, "token", r"\btoken: .*new one.*'hf auth login'.*HF_TOKEN"),
        ("me/it", {"revision": "nowhere"}, "revision", "no revision 'nowhere'"),
        ("me/it@" + "0" * 40, {}, "revision", "no revision '0{40}'.*branch.*tag.*commit"),
        ("other/text", {}, "not_a_model", r"lacks config\.json and model\.safetensors"),
        ("other/their_format", {}, "not_a_model", "format_version: missing"),
        ("other/newer", {}, "not_a_model", "upgrade unetzoo"),
    ):
        with pytest.raises(HubError, match=words) as caught:
            unetzoo.from_pretrained(source, **{"cache_dir": tmp_path / "fresh", **options})
        assert caught.value.reason == expected, source
        assert isinstance(caught.value, OSError)
    assert not list((tmp_path / "fresh").rglob("model.safetensors"))
    with pytest.raises(HubError) as caught:
        unetzoo.push_to_hub(small(), "other/text")
    assert caught.value.reason == "forbidden"
    with pytest.raises(HubError) as caught:
        unetzoo.push_to_hub(small(), "me/new", token="hf_wrong")
    assert caught.value.reason == "token"


def test_who_is_not_logged_in_is_told_so(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unetzoo.push_to_hub(small(), "me/it")
    hub.requests.clear()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for name, options in (("me/it", {}), ("me/new", {}), ("me/it", {"token": False})):
        with pytest.raises(HubError, match=f"{name} .*without a login.*'hf auth login'.*HF_TOKEN") as caught:
            unetzoo.push_to_hub(small(), name, **options)
        assert caught.value.reason == "token"
    assert hub.requests == []
    unetzoo.push_to_hub(small(), "me/it", token="hf_me")


def test_a_push_goes_to_a_branch(hub: HubServer) -> None:
    pushed = unetzoo.push_to_hub(small(), "me/it")
    with pytest.raises(ConfigError, match=f"branch.*{pushed.commit} .*commit.*parent_commit"):
        unetzoo.push_to_hub(small(), str(pushed))


def test_a_folder_that_is_not_there_is_not_only_taken_for_a_repository(hub: HubServer) -> None:
    for source, said in (
        ("runs/b", "no file .*'runs/b' .*no model repository runs/b"),
        ("hf-hub:runs/b", "^(?!.*no file).*no model repository runs/b"),
    ):
        with pytest.raises(HubError, match=said) as caught:
            unetzoo.from_pretrained(source)
        assert caught.value.reason == "missing"


def test_what_is_missing_in_a_folder_that_is_there_is_not_asked_for(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    said = "no file .*'runs/b'.*repository .*hf-hub:runs/b"
    for take in (unetzoo.from_pretrained, unetzoo.Predictor):
        with pytest.raises(WeightsError, match=said):
            take("runs/b")
    assert hub.requests == []


def test_an_address_that_is_no_hub_is_said_in_a_line(tmp_path: Path) -> None:
    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(HubError, match=r"^.*Hub .*me/it \(.*404.*\).*HF_ENDPOINT.*$"):
            unetzoo.from_pretrained("hf-hub:me/it", endpoint=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize("name", ["me/it", "hf-hub:me/it"])
@pytest.mark.usefixtures("no_curves")
def test_a_model_of_the_hub_is_trained_on_by_its_name(hub: HubServer, name: str, tmp_path: Path) -> None:
    pushed = small(num_classes=5)
    unetzoo.push_to_hub(pushed, "me/it")
    drawing.write_shapes(tmp_path / "data", 10, size=(32, 32))
    arguments = ["--data", str(tmp_path / "data"), "--task", "multiclass", "--num-classes", "5", "--crop-size", "32"]
    kept = ["--lr", "0", "--epochs", "1", "--data.repeats", "1", "--data.workers", "0", "--trainer.accelerator", "cpu"]
    assert cli.main(["train", "--model", name, "--out", str(tmp_path / "run"), "--quiet", *arguments, *kept]) == 0
    trained_on = unetzoo.load(tmp_path / "run")
    assert torch.equal(trained_on.head.conv.weight, pushed.head.conv.weight)


def test_names_that_are_none() -> None:
    for source, error, words in (
        ("cells", ConfigError, "no file .*'cells'"),
        ("runs/nuclei.safetensors", WeightsError, r"no file .*'runs/nuclei\.safetensors'"),
        ("me/nuclei/more", WeightsError, "'me/nuclei/more'.*not a repository.*'owner/name'"),
        ("me/nu clei", WeightsError, "'me/nu clei'.*not a repository.*'owner/name'"),
    ):
        with pytest.raises(error, match=words):
            unetzoo.from_pretrained(source)
    with pytest.raises(WeightsError, match=r"no file .*'me[^']+nuclei'$"):
        unetzoo.from_pretrained(Path("me/nuclei"))
    with pytest.raises(ConfigError, match="contradict"):
        unetzoo.from_pretrained("me/nuclei@v1", revision="v2")
    for address in ("https://huggingface.co/me/nuclei", "https://huggingface.co/me/nuclei/tree/main"):
        with pytest.raises(WeightsError, match="from this address, use 'me/nuclei'"):
            unetzoo.from_pretrained(address)
    with pytest.raises(ConfigError, match="is not the name of a repository"):
        unetzoo.push_to_hub(small(), "nuclei")
    with pytest.raises(ConfigError, match=r"is needed, not SegmentationModel$"):
        unetzoo.push_to_hub("me/nuclei", small())
    with pytest.raises(ConfigError, match=r"push .*Predictor: .*model.*name"):
        unetzoo.push_to_hub(unetzoo.Predictor(small()), "me/nuclei")
    with pytest.raises(ConfigError, match=r"from_pretrained takes saved models"):
        zoo.create("me/nuclei")


def test_a_folder_goes_before_a_repository(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, remote = small(), small(num_classes=2)
    unetzoo.push_to_hub(remote, "me/it")
    monkeypatch.chdir(tmp_path)
    unetzoo.save_pretrained(local, "me/it")
    assert same(unetzoo.from_pretrained("me/it"), local)
    assert same(unetzoo.from_pretrained("hf-hub:me/it"), remote)
    with pytest.raises(ConfigError, match="is for repositories"):
        unetzoo.from_pretrained("me/it", revision="main")
    (tmp_path / "me" / "it" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="hf-hub:me/it is the repository"):
        unetzoo.from_pretrained("me/it")


def test_repositories_of_pickles_are_never_opened(hub: HubServer, tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(mark),)

    content = pickle.dumps(Payload())
    hub.add_repo("other/pickles", files={"config.json": b"{}", "pytorch_model.bin": content, "a.pt": content})
    with pytest.raises(HubError, match=r"only pickles .*never opened.*unetzoo convert") as caught:
        unetzoo.from_pretrained("other/pickles")
    assert caught.value.reason == "pickle"
    good = small()
    config = good.config.to_json().encode()
    hub.add_repo("other/disguised", files={"config.json": config, "model.safetensors": content})
    assert reason("other/disguised") == "damaged"
    assert not mark.exists()
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.bin"))


def test_a_transfer_that_breaks_off_is_taken_up_again(hub: HubServer) -> None:
    model = small(base_channels=8)
    unetzoo.push_to_hub(model, "me/it")
    hub.fail(r"GET .*model\.safetensors", cut=100_000)
    assert same(unetzoo.from_pretrained("me/it"), model)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 500}, "busy"),
        ({"status": 429}, "busy"),
        ({"status": 503}, "busy"),
        ({"cut": 10}, "unreachable"),
    ],
)
def test_a_hub_that_is_unwell(hub: HubServer, fault: dict[str, int], expected: str) -> None:
    model = small()
    unetzoo.push_to_hub(model, "me/it")
    hub.fail("GET /api/models/", **fault)
    assert reason("me/it") == expected
    assert same(unetzoo.from_pretrained("me/it"), model)
    hub.fail("POST /api/models/me/it/commit/", **fault)
    with pytest.raises(HubError) as caught:
        unetzoo.push_to_hub(small(), "me/it")
    assert caught.value.reason == expected


def test_a_download_that_always_fails_leaves_no_half_a_model(hub: HubServer) -> None:
    model = small(base_channels=8)
    unetzoo.push_to_hub(model, "me/it")
    hub.fail(r"GET .*model\.safetensors", status=500, times=100)
    assert reason("me/it") == "busy"
    assert not list(Path(constants.HF_HUB_CACHE).rglob("model.safetensors"))
    hub.faults.clear()
    assert same(unetzoo.from_pretrained("me/it"), model)


def test_wrong_bytes_are_found_and_not_kept(hub: HubServer) -> None:
    model = small()
    unetzoo.push_to_hub(model, "me/it")
    for place in (12, 20_000):  # in the header, and in the data
        hub.fail(r"GET .*model\.safetensors", flip=place)
        with pytest.raises(HubError, match="pull it again") as caught:
            unetzoo.from_pretrained("me/it")
        assert caught.value.reason == "damaged"
    assert same(unetzoo.from_pretrained("me/it"), model)
    (cached,) = Path(constants.HF_HUB_CACHE).rglob("model.safetensors")
    content = bytearray(cached.read_bytes())
    content[-1] ^= 4
    cached.resolve().write_bytes(content)
    assert reason("me/it") == "damaged"
    assert same(unetzoo.from_pretrained("me/it"), model)


def test_a_host_that_refuses_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached .*HF_ENDPOINT") as caught:
        unetzoo.from_pretrained("me/it", endpoint="http://127.0.0.1:9")
    assert caught.value.reason == "unreachable"
    assert time.monotonic() - start < 5
    with pytest.raises(HubError, match="cannot be reached"):
        unetzoo.push_to_hub(small(), "me/it", endpoint="http://127.0.0.1:9", token="hf_me")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("silent", ["name", pytest.param("connection", marks=pytest.mark.slow), "answer"])
def test_a_host_that_says_nothing_is_given_up_within_five_seconds(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    assert reaching.ANSWER_SECONDS < 5
    for module in (reaching, pulling):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 1)
    if silent == "name":

        def look_up(*_: object, **__: object) -> None:
            time.sleep(2.5)
            raise socket.gaierror("no such name")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
    elif silent == "connection":

        def wait(address: object, timeout: float, **_: object) -> None:
            time.sleep(timeout)
            raise TimeoutError("timed out")

        monkeypatch.setattr(socket, "create_connection", wait)
    else:
        hub.fail(".*", hang=20, times=100)
    start = time.monotonic()
    assert reason("me/it") == "unreachable"
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("variable", ["UNETZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(hub: HubServer, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    unetzoo.push_to_hub(model, "me/it")
    unetzoo.from_pretrained("me/it")
    hub.requests.clear()
    monkeypatch.setenv(variable, "1")
    assert same(unetzoo.from_pretrained("me/it"), model)
    with pytest.raises(HubError, match=f"refresh .*{variable}=1 .*leave"):
        unetzoo.from_pretrained("me/it", refresh=True)
    with pytest.raises(HubError, match=f"me/other.* cache.*{variable}=1 forbids .*unetzoo pull me/other") as caught:
        unetzoo.from_pretrained("me/other")
    assert caught.value.reason == "offline"
    with pytest.raises(HubError, match=f"{variable}=1"):
        unetzoo.push_to_hub(model, "me/it")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("value", "off"),
    [("1", True), ("true", True), ("YES", True), ("On", True), ("0", False), ("", False), ("no", False)],
)
def test_offline_is_said_as_huggingface_hub_has_it(value: str, off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNETZOO_OFFLINE", value)
    said = reason("me/it")
    assert said == ("offline" if off else "unreachable")


def test_offline_forbids_torchvision_s_server_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("UNETZOO_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was touched"))
    with pytest.raises(WeightsError, match="UNETZOO_OFFLINE=1 forbids"):
        unetzoo.create("resunet18", pretrained=True)


def test_files_alone_need_no_huggingface_hub(tmp_path: Path) -> None:
    code = """
import sys, unetzoo
model = unetzoo.create("unet", base_channels=2)
unetzoo.save(model, "it.safetensors")
unetzoo.load("it.safetensors"); unetzoo.verify("it.safetensors"); unetzoo.from_pretrained("it.safetensors")
print([name for name in sys.modules if name.startswith("huggingface_hub")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_endpoint_of_the_environment(hub: HubServer, tmp_path: Path) -> None:
    """As users have it: a process of its own, nothing patched, the endpoint an argument or in HF_ENDPOINT."""
    model = small()
    unetzoo.save(model, tmp_path / "it.safetensors")
    code = f"""
import unetzoo
print(unetzoo.push_to_hub({str(tmp_path / "it.safetensors")!r}, "me/it", private=True))
print(unetzoo.pull_from_hub("me/it"))
print(unetzoo.pull_from_hub("me/it", endpoint={hub.endpoint!r}, refresh=True))
"""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    environment["TQDM_POSITION"] = "-1"  # shows progress bars although nobody sits at a terminal
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pushed, pulled, again = done.stdout.split()
    assert pushed == f"me/it@{hub.repos['me/it'].branches['main']}"
    assert pulled == again
    for transfer in ("it.safetensors: 100%", "model.safetensors: 100%"):
        assert transfer in done.stderr
    assert Path(pulled).is_relative_to(tmp_path / "home")
    assert same(unetzoo.load(pulled), model)


def test_the_words_of_the_owner_stay(hub: HubServer) -> None:
    card = unetzoo.ModelCard(
        license="mit",
        training_data="Images -- many of them.",
        metrics={"Dice": 0.91},
        evaluation_data="other images",
        text="## Limits\n\nOnly by daylight.",
    )
    model = small()
    unetzoo.push_to_hub(model, "me/it", card=card)
    repo = hub.repos["me/it"]
    text = repo.find().files["README.md"].decode()
    edited = text.replace("license: mit", "license: mit\nlanguage: fr") + "\nAsk before use in hospitals.\n"
    repo.commit({"README.md": edited.encode()})
    unetzoo.push_to_hub(model, "me/it")
    again = repo.find().files["README.md"].decode()
    for words in ("Only by daylight.", "Ask before use in hospitals.", "language: fr", "license: mit"):
        assert again.count(words) == 1, words
    assert "\n- training data: Images -- many of them.\n" in again
    assert "| Dice | 0.91 |" in again  # the same weights
    unetzoo.push_to_hub(small(), "me/it")
    anew = repo.find().files["README.md"].decode()
    assert "Only by daylight." in anew
    assert "0.91" not in anew
    assert "model-index" not in anew
    unetzoo.push_to_hub(small(), "me/it", card=unetzoo.ModelCard(text="Other words."))
    replaced = repo.find().files["README.md"].decode()
    assert "Only by daylight." not in replaced
    assert replaced.endswith("Ask before use in hospitals.\n")
    repo.commit({"README.md": b"# By hand\n\nWritten before.\n"})
    unetzoo.push_to_hub(small(), "me/it")
    assert "Written before." in repo.find().files["README.md"].decode()
    repo.commit({"README.md": b"---\na: [\n---\n"})
    with pytest.raises(WeightsError, match=r"YAML .*README\.md of me/it"):
        unetzoo.push_to_hub(small(), "me/it")


def test_a_folder_without_words_leaves_those_on_the_hub(hub: HubServer, tmp_path: Path) -> None:
    model = small()
    unetzoo.save_pretrained(model, tmp_path / "it", card=unetzoo.ModelCard(training_data="Some."))
    unetzoo.push_to_hub(tmp_path / "it", "me/it")
    repo = hub.repos["me/it"]
    text = repo.find().files["README.md"].decode()
    repo.commit({"README.md": text.replace("---\n", "---\nlanguage: fr\n", 1).encode() + b"\nEdited online.\n"})
    unetzoo.push_to_hub(tmp_path / "it", "me/it")
    again = repo.find().files["README.md"].decode()
    assert again.endswith("\n\nEdited online.\n")
    assert "language: fr" in again
    assert "Some." in again
    with (tmp_path / "it" / "README.md").open("a") as file:
        file.write("\nWritten here.\n")
    unetzoo.push_to_hub(tmp_path / "it", "me/it")
    last = repo.find().files["README.md"].decode()
    assert last.endswith("\n\nWritten here.\n")
    assert "Edited online." not in last


def test_the_client_s_own_tools_read_the_repository(hub: HubServer, tmp_path: Path) -> None:
    unetzoo.push_to_hub(small(), "me/it", card=unetzoo.ModelCard(metrics={"Mean IoU": 0.5}, evaluation_data="Set B"))
    api = HfApi(endpoint=hub.endpoint)
    place = Path(api.snapshot_download("me/it", cache_dir=tmp_path / "own"))
    assert {path.name for path in place.iterdir()} == {".gitattributes", *THREE}
    data = HubCard.load(place / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("unetzoo", "image-segmentation")
    (result,) = data.eval_results
    assert (result.metric_name, result.metric_value, result.dataset_name) == ("Mean IoU", 0.5, "Set B")
    assert load_file(place / "model.safetensors")["head.conv.bias"].shape == (1,)


def test_the_command_line(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small(num_classes=2, class_names=["dark", "light"])
    unetzoo.save_pretrained(model, tmp_path / "nuclei")
    assert cli.main(["push", str(tmp_path / "nuclei"), "me/nuclei", "--private", "--message", "ours",
                     "--license", "cc-by-4.0"]) == 0  # fmt: skip
    assert hub.repos["me/nuclei"].private
    assert "\nlicense: cc-by-4.0\n" in hub.repos["me/nuclei"].commits[-1].files["README.md"].decode()
    assert hub.repos["me/nuclei"].commits[-1].message == "ours"
    printed = capsys.readouterr().out
    assert f"unetzoo.from_pretrained('me/nuclei@{hub.repos['me/nuclei'].branches['main']}')" in printed
    assert cli.main(["pull", "me/nuclei", "--out", str(tmp_path / "copy.safetensors")]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'copy.safetensors'}\n"
    assert "2 classes (dark, light)" in said.err
    assert same(unetzoo.load(tmp_path / "copy.safetensors"), model)
    assert cli.main(["demo", "--model", "hf-hub:me/nuclei", "--out", str(tmp_path / "demo.png")]) == 0
    capsys.readouterr()
    for command in ("verify", "info"):
        assert cli.main([command, "me/nuclei"]) == 0
        assert "2 classes (dark, light)" in capsys.readouterr().out
        assert cli.main([command, "me/missing"]) == 2
        assert re.search("no file .*'me/missing' .*no model repository me/missing", capsys.readouterr().err)
    assert cli.main(["pull", "me/missing"]) == 2
    assert "check the name" in capsys.readouterr().err


def test_a_file_without_our_record_is_no_model(hub: HubServer) -> None:
    model = small()
    hub.add_repo("me/bare", files={"config.json": model.config.to_json().encode(), "model.safetensors": b""})
    path = Path(constants.HF_HUB_CACHE).parent / "bare.safetensors"
    save_file(model.state_dict(), path)
    hub.repos["me/bare"].commit({"model.safetensors": path.read_bytes()})
    with pytest.raises(WeightsError, match=r"which model.*'unetzoo convert .*--model"):
        unetzoo.from_pretrained("me/bare")
