"""Compare two checkouts, byte by byte, by their command lines and endpoints alone.

    .venv/bin/python tests/same_results.py OLD NEW --films FOLDER --work DIR

OLD and NEW are checkouts, each with its own ``.venv``; FOLDER holds COVID-QU-Ex, and its neighbour ``dicom`` some DICOM
films. What a checkout gave is kept in DIR by its commit and is not computed again; ``--again CHECK,...`` does so. Times
are left out. Words may differ (help, details of errors, reports): they are shown with ``--verbose`` alone. Exits 1
where anything else differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydicom import Dataset, dcmread

MODELS = ("models/covid-qu-ex", "covseg_ray/models/covid-qu-ex")  # where a checkout has the shipped model
LIMIT, TRIES = 1800, 6  # seconds of a command; how often where Ray does not come up
USED = ("covseg_ray", "models")
KINDS = ("images", "infection masks", "lung masks")
TIMES = re.compile(r"(^|_)(seconds|per_second|created|timing_ms|request_id|expires)$")
WORDS = {"detail", "advice", "note"}
NOT_PASSED_ON = ("COVSEG_", "RAY_", "AWS_", "PYTHONPATH")
UNSTABLE_HEADERS = {"date", "x-request-id", "content-length", "server", "etag", "last-modified"}  # two: of files' dates
NAME_ALONE = re.compile(r"\.(html|md|log|onnx|pt)$|/tensorboard/|/listing/|checkpoint_manager")
JOB = """\
name = "run"
workers = 2
seed = 3
model.encoder = "resnet18"
model.encoder_weights = "none"
[train]
epochs = 2
batch_size = 16
precision = "fp32"
"""
LUNG = 'model.classes = ["background", "lung", "infection"]\n[train]'
SEARCH = f"""{JOB.replace("[train]", LUNG)}\
loss = "cross-entropy+film-jaccard"
augment = "chest"
schedule = "one-cycle"
average = 0.9
[tune]
trials = 2
grace = 1
[[search]]
key = "train.learning_rate"
low = 1e-4
high = 1e-2
log = true
"""
# Commands of each check, which leave their results in its folder, OUT; IN holds what both checkouts are given. All are
# given --json but those after "-"; of those after "~" only the keys of the document are compared.
DONE = {
    "packed": """\
data synth OUT/phantoms --count 60 --seed 7
data pack IN/subset OUT/subset
data pack IN/films.csv OUT/small --size 64 --resize letterbox
data pack IN/broken OUT/broken
data show OUT/subset --out OUT/sheet.png
data audit IN/subset --side val --out OUT/audit.txt
data audit IN/broken
""",
    "trained": "train -c IN/job.toml --set data.dataset=SMALL --set out=OUT",
    "tuned": "tune -c IN/search.toml --set data.dataset=SMALL --set out=OUT",
    "segmented_val": """\
segment FILMS/Val/*/images/*.png OUT/val --model MODEL
results show OUT/val
""",
    "segmented": """\
segment IN/mixed OUT/mixed --model MODEL --write masks,overlays,dicom-seg
results show OUT/mixed
-results export OUT/mixed --to csv OUT/csv
-results export OUT/mixed --to png OUT/png
-results export OUT/mixed --to coco OUT/coco
segment IN/mixed OUT/nothing --model MODEL --dry-run
segment IN/mixed OUT/mixed --model MODEL --write masks,overlays,dicom-seg --actors 1
segment SMALL OUT/small --model MODEL
segment IN/mixed/films.zip OUT/openvino --model MODEL --engine openvino
segment IN/mixed/films.zip OUT/onnx --model MODEL --engine onnx
""",
    "measured": """\
evaluate MODEL PACKED/subset --report OUT/evaluation.html
evaluate FIRST SMALL --split train --labels COVID-19 --workers 2
compare FIRST SECOND SMALL
model decide SECOND SMALL OUT/decided --flip --half
model export FIRST --to onnx --out OUT/onnx
model export FIRST --to openvino --out OUT/openvino
model info MODEL
model info FIRST
config show -c IN/search.toml --set train.epochs=3
~doctor
~bench predict FIRST --films 8 --rounds 1
""",
}
REFUSED = """\
nonsense
config show -c IN/typo.toml
config show --set train.epochs=0
config show --set nonsense
train -c OUT/none.toml
train -c IN/job.toml --set workers=3
train -c IN/job.toml --set data.dataset=OUT/none
train -c IN/job.toml --set data.dataset=SMALL --set out=OUT/runs --set model.encoder=resnet43
train -c IN/job.toml --set data.dataset=SMALL --set out=OUT/runs --set train.loss=none
train -c IN/job.toml --set data.dataset=SMALL --set out=OUT/../trained --set seed=4
tune -c IN/job.toml --set data.dataset=SMALL --set out=OUT/runs
data show OUT/none
data pack IN/no-masks OUT/dataset
data pack IN/subset SMALL
data pack IN/subset OUT/dataset --layout none
data pack IN/subset OUT/dataset --resize none
data audit IN/empty
evaluate MODEL OUT/none
evaluate SMALL SMALL
compare MODEL OUT/none SMALL
segment IN/empty OUT/../segmented/mixed --model MODEL
segment IN/empty OUT/empty --model MODEL
segment OUT/none OUT/out --model MODEL
segment IN/mixed OUT/out --model MODEL --engine none
segment IN/mixed OUT/out --model MODEL --write none
segment IN/mixed OUT/out --model MODEL --max-rejects none
results show OUT/none
results export OUT/none --to csv OUT/csv
model info OUT/bundle
model info OUT/none
model export MODEL --to none
model export MODEL --to openvino --int8
serve --model OUT/none
serve --model MODEL --host 0.0.0.0
serve -c IN/typo.toml
client OUT/none.png
client IN/mixed/films.zip --url http://127.0.0.1:9
jobs list --address http://127.0.0.1:9
submit train --address http://127.0.0.1:9 -c IN/typo.toml
submit segment --address http://127.0.0.1:9 IN/mixed OUT/out --model MODEL
bench predict OUT/none
"""
Found = dict[str, Any]  # by the name of what was looked at; the names of words begin with "words"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Side:
    """One checkout: its commands, and what they left in ``folder``."""

    def __init__(self, checkout: Path, films: Path, work: Path) -> None:
        self.checkout, self.inputs, self.folder = checkout, work / "inputs", work / state_of(checkout)
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            self.port = int(listening.getsockname()[1])
        bundles = {"FIRST": self.folder / "trained/run/bundle", "SECOND": self.folder / "tuned/run/bundle"}
        packed = {"PACKED": self.folder / "packed", "SMALL": self.folder / "packed/small"}
        model = next(path for path in MODELS if (checkout / path).is_dir())
        self.places = {"IN": self.inputs, "FILMS": films, "MODEL": model, **packed, **bundles}

    def start(self, command: str, out: Path, stdout: Any, stderr: Any) -> subprocess.Popen[str]:
        places = {**self.places, "OUT": out, "PORT": self.port}
        known = re.compile(rf"\b({'|'.join(places)})\b")
        words = [known.sub(lambda match: str(places[match[0]]), word) for word in shlex.split(command)]
        return subprocess.Popen(
            [str(self.checkout / ".venv/bin/python"), "-m", "covseg_ray", *words],
            cwd=self.checkout,
            env={k: v for k, v in os.environ.items() if not k.startswith(NOT_PASSED_ON)} | {"COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def run(self, command: str, out: Path) -> Ended:
        for _ in range(TRIES):
            with self.start(command, out, subprocess.PIPE, subprocess.PIPE) as process:
                try:
                    out_text, err_text = process.communicate(timeout=LIMIT)
                except BaseException:
                    end(process)
                    raise
            if "during startup" not in err_text:  # of Ray, on a busy machine
                return Ended(process.returncode, out_text, err_text)
            time.sleep(30)
        raise RuntimeError(f"Ray did not come up: try again when the machine is less busy ({command})")

    def document(self, command: str, out: Path) -> Found:
        """How a command ends, and its document."""
        name = command.lstrip("-~")
        ended = self.run(name if command.startswith("-") else f"{name} --json", out)
        found: Found = {"exit": ended.code}
        if not command.startswith("-"):
            try:
                document = json.loads(ended.out)
                found["document"] = shape_of(document) if command.startswith("~") else self.plain(document)
            except ValueError:
                found["document"] = None
                print(f"{name}: exit {ended.code}: {ended.err.strip()[-600:]}", file=sys.stderr)
        return {name: found, f"words of {name}": self.plain(ended.err[-2000:])}

    def plain(self, value: Any, key: str = "") -> Any:
        """Without times, words, and the paths of this checkout."""
        if value is not None and (TIMES.search(key) or key in WORDS):
            return shape_of(value) if isinstance(value, Mapping) else "left out"
        if isinstance(value, Mapping):
            return {name: self.plain(each, name) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(each) for each in value]
        if isinstance(value, str):
            places = ((self.folder, "OUT"), (self.checkout, "."), (f"127.0.0.1:{self.port}", "SERVED"), MODELS[::-1])
            for own, name in places:
                value = value.replace(str(own), name)
        return value

    def left(self, out: Path) -> Found:
        """What a check's commands left in its folder: digests of files, documents and tables without times.
        Hidden files are the records by which a run is gone on with."""
        found: Found = {}
        for path in sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()):
            if path.parent.name != "results" and not any(part.startswith(".") for part in path.parts):
                files = found.setdefault(f"files of OUT/{path.parent}", {})
                files[path.name] = "there" if NAME_ALONE.search(f"/{path}") else self._content(out / path)
        for parts in sorted({path.parent for path in out.rglob("results/*.parquet")}):
            found |= self._table(str(parts.relative_to(out)), parts)
        return found

    def _content(self, path: Path) -> Any:
        data = path.read_bytes()
        if path.suffix in (".json", ".jsonl"):
            lines = data.splitlines() if path.suffix == ".jsonl" else [data]
            return [self.plain(json.loads(line)) for line in lines]
        if path.suffix == ".toml":
            return self.plain(data.decode())
        if path.suffix == ".csv":
            return digest(repr(self.plain(list(csv.DictReader(io.StringIO(data.decode()))))).encode())
        return dicom_digest(data) if path.suffix == ".dcm" else digest(data)

    def _table(self, name: str, folder: Path) -> Found:
        """A result table in order of its image ids: a digest of each column, and one of the masks with what they say.
        Its files are cut as the work happened to go."""
        whole = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
        columns = self.plain(whole.sort_by([("image_id", "ascending")]).to_pydict())
        answer = ("image_id", "status", "reason", "mask", "infection_fraction", "lung_fraction")
        return {
            f"{name}: rows": whole.num_rows,
            f"{name}: types": [f"{field.name} {field.type}" for field in whole.schema],
            f"{name}: masks": digest(repr([columns.get(key) for key in answer]).encode()),
            **{f"{name}: column {key}": digest(repr(values).encode()) for key, values in columns.items()},
        }


def state_of(checkout: Path) -> str:
    """The commit, and a digest of what changed since."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(checkout), *words], check=True, capture_output=True).stdout

    untracked = git("ls-files", "-zo", "--exclude-standard", "--", *USED).decode().split("\0")
    changes = git("diff", "HEAD", "--", *USED) + b"".join((checkout / name).read_bytes() for name in untracked if name)
    commit = git("rev-parse", "HEAD").decode().strip()[:12]
    return f"{commit}-{digest(changes)[:8]}" if changes else commit


def make_inputs(films: Path, root: Path) -> None:
    """What both checkouts are given, made once: films of COVID-QU-Ex as published, in other layouts, and bad ones."""
    if (root / "complete").exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    labels = [films / split / label for split in ("Train", "Val") for label in ("COVID-19", "Non-COVID", "Normal")]
    some = {label: sorted((label / "images").iterdir())[:40] for label in labels}
    for label, images in some.items():
        for source in (label / kind / image.name for image in images for kind in KINDS):
            copy(source, root / "subset" / source.relative_to(films))
    for kind in KINDS:  # the same film in train and, with a label that its mask contradicts, in val
        copy(labels[0] / kind / some[labels[0]][0].name, root / "subset/Val/Normal" / kind / "twin.png")
    lines = ["image,mask,lung,split,label,patient_id"]
    for label in labels:
        for number, image in enumerate(some[label][: 24 if label == labels[0] else 12]):
            paths = ",".join(str(label / kind / image.name) for kind in KINDS)
            lines.append(f"{paths},{label.parent.name.lower()},{label.name},{label.name}-{number // 2}")
    for number, image in enumerate(some[labels[0]][:4]):
        mask = labels[0] / KINDS[1] / image.name
        content = {1: image.read_bytes()[:3000], 2: b"<!doctype html><title>404</title>"}.get(number)
        copy(image, root / "no-masks/images" / image.name)
        copy(image, root / "broken/images" / image.name, content)
        copy(mask, root / "broken" / ("masks" if number else "elsewhere") / image.name)
    folder = root / "mixed/folder"
    for film in [*(some[label][0] for label in labels[3:]), *sorted((films.parents[1] / "dicom").glob("*.dcm"))]:
        copy(film, folder / film.name)
        copy(film, folder / "bad" / film.name, film.read_bytes()[:3000])
    archives = root / "mixed/films.tar.gz", root / "mixed/films.zip"
    with tarfile.open(archives[0], "w:gz") as tar, zipfile.ZipFile(archives[1], "w") as zipped:
        for film in some[labels[3]][1:7]:
            tar.add(film, film.name)
            zipped.write(film, film.name)
    (root / "empty").mkdir()
    texts = {"films.csv": "\n".join(lines), "job.toml": JOB, "search.toml": SEARCH, "typo.toml": "train.epoch = 1"}
    for name, text in {**texts, "complete": ""}.items():
        (root / name).write_text(text)


def copy(film: Path, target: Path, content: bytes | None = None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(film.read_bytes() if content is None else content)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def end(process: subprocess.Popen[str]) -> None:
    """By SIGTERM, upon which the command cleans up; killed where it has not ended two minutes later."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def shape_of(value: Any) -> Any:
    """The keys of a document and the kinds of its values."""
    if isinstance(value, Mapping):
        return {key: shape_of(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape_of(each)) for each in value})
    return "number" if type(value) in (int, float) else type(value).__name__


def dicom_digest(data: bytes) -> str:
    """Of all elements but dates and times."""

    def timeless(dataset: Dataset, element: Any) -> None:
        if element.VR in ("DA", "TM", "DT"):
            del dataset[element.tag]

    found = dcmread(io.BytesIO(data))
    found.walk(timeless)
    return digest(json.dumps([found.file_meta.to_json_dict(), found.to_json_dict()], sort_keys=True).encode())


def helped(side: Side, out: Path) -> Found:
    """The commands, and the options of each."""
    found: Found = {}
    waiting = ["--help"]
    while waiting:
        command = waiting.pop()
        text = side.run(command, out).out
        commands = re.findall(r"^  ([a-z]+)(?:  .*)?$", text.partition("\nCommands:")[2], re.MULTILINE)
        options = re.findall(r"^  (?:-\w, )?(--[a-z][\w-]*)", text, re.MULTILINE)
        found[command] = [*sorted(commands), *sorted(options)]
        waiting += [command.replace("--help", f"{each} --help") for each in commands]
    return found


def refused(side: Side, out: Path) -> Found:
    """Commands that cannot be done: how each ends."""
    copy(side.folder / "trained/run/bundle/model.json", out / "bundle/model.json")
    (out / "bundle/model.safetensors").write_bytes(b"no weights")
    found: Found = {}
    for command in REFUSED.splitlines():
        ended = side.run(command, out)
        lines = ended.err.strip().splitlines()
        found[command] = {"exit": ended.code, "one line": len(lines) == 1, "prints": bool(ended.out)}
        found[f"words of {command}"] = side.plain(lines)
    return found | side.left(out)


def served(side: Side, out: Path) -> Found:
    """The endpoint with two models, and what its command prints."""
    command = "serve --port PORT --json --model default=MODEL --model small=FIRST"
    films = [*(side.inputs / "mixed/folder").glob("*.*"), *(side.inputs / "broken/images").iterdir()]
    words = " ".join(shlex.quote(str(film)) for film in sorted(films))
    client = f"client {words} --url http://127.0.0.1:PORT --out OUT/client --write masks,overlays,dicom-seg"
    for _ in range(TRIES):
        with (out / "serve.log").open("w") as log, side.start(command, out, subprocess.PIPE, log) as process:
            try:
                if printed := next(iter(process.stdout or ()), ""):
                    found = {"serve": side.plain(json.loads(printed)), **asked(side)}
                    found["client"], found["words of client"] = side.document(client, out).values()
                    break
            finally:
                end(process)
        time.sleep(30)
    else:
        raise RuntimeError(f"the endpoint did not come up: see {out / 'serve.log'}")
    return found | {"serve: exit": process.returncode} | side.left(out)


def answer(side: Side, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    """Status, headers and body of an answer of the endpoint."""
    connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=600)
    connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
    got = connection.getresponse()
    content, kept = got.read(), {key.lower(): value for key, value in got.getheaders()}
    connection.close()
    shown: dict[str, Callable[[], Any]] = {
        "application/json": lambda: side.plain(json.loads(content)),
        "application/dicom": lambda: dicom_digest(content),
        "text/html; charset=utf-8": lambda: "a page",
    }
    body_shown = shown.get(kept.get("content-type", ""), lambda: digest(content))()
    kept = {key: value for key, value in sorted(kept.items()) if key not in UNSTABLE_HEADERS}
    return {"status": got.status, "headers": kept, "body": body_shown}


def form_of(named: Mapping[str, bytes]) -> bytes:
    """A multipart form with a file for each, the boundary being ``of-films``."""
    head = 'Content-Disposition: form-data; name="films"; filename="{}"\r\nContent-Type: image/png\r\n\r\n'
    parts = [b"--of-films\r\n" + head.format(name).encode() + data + b"\r\n" for name, data in named.items()]
    return b"".join([*parts, b"--of-films--\r\n"])


def asked(side: Side) -> Found:
    """Answers to films and to what is none, by what was asked."""
    ways = {
        "": "application/json",
        "?mask=rle": "*/*",
        "?picture=true": "text/html;q=0.5,application/json",
        "?view=mask": "image/png",
        "?view=overlay": "image/*",
        "?mask=png": "application/dicom",
        "?model=small": "application/json",
    }
    films = {path.stem: path.read_bytes() for path in sorted((side.inputs / "mixed/folder").glob("*.*"))}
    bad = {"text": b"no film", "cut": next(iter(films.values()))[:3000], "empty": b""}
    one, found = next(iter(films.values())), Found()
    for name, data in {**films, **bad}.items():
        for query, accept in ways.items():
            found[f"POST {name} {query} {accept}"] = answer(side, "POST", f"/v1/segment{query}", data, Accept=accept)
    wrong = {"": "text/html", "?model=none": "*/*", "?view=none": "*/*", "?mask=none": "image/png"}
    for query, accept in wrong.items():
        found[f"POST {query} {accept}"] = answer(side, "POST", f"/v1/segment{query}", one, Accept=accept)
    forms = {"form": {**films, **bad}, "form of none": {}, "form of many": {str(n): b"" for n in range(99)}}
    for name, body in forms.items():
        for accept in ("application/json", "image/png"):
            headers = {"Accept": accept, "Content_Type": "multipart/form-data; boundary=of-films"}
            found[f"POST {name} {accept}"] = answer(side, "POST", "/v1/segment", form_of(body), **headers)
    for path in ("/v1/model", "/v1/segment", "/healthz", "/readyz", "/", "/docs", "/none"):
        found[f"GET {path}"] = answer(side, "GET", path)
    return found


def done(side: Side, check: str, out: Path) -> Found:
    """What the commands of a check print and leave."""
    found: Found = {}
    for command in DONE[check].splitlines():
        found |= side.document(command, out)
    return found | side.left(out)


OTHERS: dict[str, Callable[[Side, Path], Found]] = {"helped": helped, "served": served, "refused": refused}
CHECKS = ("helped", *DONE, "served", "refused")


def results(side: Side, check: str, again: bool) -> Found:
    """Of one check, computed where they are not there yet."""
    kept, out = side.folder / f"{check}.json", side.folder / check
    if again or not kept.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        begin = time.monotonic()
        found = OTHERS[check](side, out) if check in OTHERS else done(side, check, out)
        print(f"{side.folder.name} {check}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        kept.write_text(json.dumps(found, indent=1))
    return dict(json.loads(kept.read_text()))


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Each place at which two values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key, "absent"), new.get(key, "absent"), f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{path}[{number}]")
    elif json.dumps(old) != json.dumps(new):  # NaN is as good as NaN
        yield f"    {path or 'it'}: {str(old)[:300]} -> {str(new)[:300]}"


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 20 else digest(text.encode())[:12]


def compared(check: str, old: Found, new: Found, verbose: bool) -> int:
    """Print a check's lines; gives how many differ."""
    differing = 0
    for name in {**old, **new}:
        pair = old.get(name, "absent"), new.get(name, "absent")
        found = list(differences(*pair))
        if name.startswith("words"):
            print("\n".join([f"{check}: {name}", *found]) if verbose and found else "", end="")
            continue
        differing += bool(found)
        print(f"{check:<13} {name[:90]:<90} {short(pair[0]):<20} {short(pair[1]):<20} {'NO' if found else 'same'}")
        print("".join(f"{line}\n" for line in found[:10]), end="")
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--films", type=Path, required=True, help="COVID-QU-Ex in its published layout")
    parser.add_argument("--work", type=Path, default=Path("same-results"), help="what is kept, and what is made")
    parser.add_argument("--only", default=",".join(CHECKS), help="of the checks, with commas between")
    parser.add_argument("--again", default="", help="checks to compute anew, with commas between")
    parser.add_argument("--verbose", action="store_true", help="show words that differ, too")
    given = parser.parse_args()
    films, work = given.films.resolve() / "Infection Segmentation Data", given.work.resolve()
    make_inputs(films, work / "inputs")
    sides = [Side(checkout, films, work) for checkout in (given.old.resolve(), given.new.resolve())]
    asked_for = [check for check in CHECKS if check in given.only.split(",")]
    found = {name: [results(side, name, name in given.again.split(",")) for side in sides] for name in asked_for}
    differing = sum(compared(name, old, new, given.verbose) for name, (old, new) in found.items())
    print(f"{differing} differences" if differing else "the same")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
