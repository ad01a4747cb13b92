"""Mutation test of guards and promises: each is broken in turn, and one of its tests has to fail.

    python tests/security/mutants.py [FILE ...]

Mutants are made from the syntax tree, in a copy of the package: each `raise` of a guarded module becomes `pass`, and
each function of `BROKEN` gets another body. The tests run without a mutant first: where they fail then, nothing is
proven.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHORTEST_LIMIT_S = 60.0
ENDLESS = 10
"""A test run that takes this many times as long as without a mutant never ends."""

HOSTILE, HOSTILE_TASKS = "security/test_hostile_setup.py", "security/test_hostile_tasks.py"
FETCH = ("images/test_fetch.py", "images/test_fetch_origins.py")
CLIENT = ("labelstudio/test_client.py", "labelstudio/test_project_api.py", "labelstudio/test_task_images.py")
STORE = ("projects/test_cache.py", "projects/test_trust.py")
GUARDED = {
    "images/guard.py": ("images/test_guard.py", *FETCH, HOSTILE_TASKS, HOSTILE),
    "images/connections.py": FETCH,
    "images/fetch.py": (*FETCH, HOSTILE_TASKS),
    "images/decode.py": ("images/test_decode.py",),
    "labelstudio/client.py": (*CLIENT, HOSTILE_TASKS),
    "labelstudio/label_config.py": ("labelstudio/test_label_config.py", HOSTILE),
    "labelstudio/config_xml.py": ("labelstudio/test_label_config.py", HOSTILE),
    "labelstudio/request_models.py": (HOSTILE_TASKS, "security/test_endpoints.py"),
    "labelstudio/task_images.py": ("labelstudio/test_task_images.py", HOSTILE_TASKS, HOSTILE),
    "projects/keys.py": ("projects/test_keys.py", HOSTILE),
    "projects/options.py": ("projects/test_options.py", HOSTILE),
    "projects/cache.py": (*STORE, HOSTILE),
    "server/handlers.py": (
        "server/test_feedback.py",
        "server/test_late.py",
        "server/test_snapshots.py",
        "server/test_swap.py",
        HOSTILE,
    ),
    "server/middleware.py": (
        "server/test_access.py",
        "server/test_reasons.py",
        "security/test_bodies.py",
        "security/test_browsers.py",
        "security/test_endpoints.py",
    ),
}
"""Modules each of whose errors is a refusal, and their tests."""

TESTS = GUARDED | {
    "projects/project.py": STORE,
    "models/calibration.py": ("models/test_calibration.py", "tagging/test_tagger.py"),
    "models/ram.py": ("models/test_ram.py",),
    "gate/judge.py": ("gate/test_judge.py", "worker/test_real_gate.py"),
    "server/snapshots.py": ("server/test_swap.py",),
    "tagging/tagger.py": ("server/test_swap.py",),
    "vocabulary/minilm.py": ("vocabulary/test_minilm.py",),
}
"""Of which one has to fail for each mutant of a module."""

BROKEN = {
    "images/guard.py": {"is_internal": "return False", "redacted": "return url"},
    "images/connections.py": {
        "_connect": "return create_connection((connection.host, connection.port), connection.timeout)",
        "Deadline._shut_down": "pass",
    },
    "images/fetch.py": {"_unquoted": "from urllib.parse import unquote_to_bytes\nreturn unquote_to_bytes(text)"},
    "labelstudio/client.py": {"LabelStudio.is_api": "return False"},
    "projects/project.py": {
        "connection_of": "return Connection(url or project.hostname or None, api_key or project.access_token, True)"
    },
    "projects/cache.py": {"ProjectCache.candidate_connection": "return None"},
    "server/middleware.py": {
        "Access._has_login": "return True",
        "Access._is_logged_in": "return True",
        "as_reason": "return message",
    },
    "server/handlers.py": {"_record": "return {}"},
    "models/calibration.py": {"sigmoid": "return np.full_like(log_odds, 0.5)"},
    "models/ram.py": {"TaggingNetwork.queries": "return self.head.queries(labels.rows.mean(1), labels.tags)"},
    "gate/judge.py": {"Verdict.accepted": "return True"},
    "server/snapshots.py": {
        "SnapshotCache.get": "key = tuple(control.texts for control in config.controls.values())\n"
        "return self._snapshots.get(key, partial(self._build, config, version))"
    },
    "tagging/tagger.py": {
        "Tagger.with_version": "base = (self.bundle, self.network, self.subset)\n"
        "made = Tagger(*base, token_dtype=self.token_dtype, delta=delta, version=version, base=self)\n"
        "self.thresholds = made.thresholds\n"
        "return made"
    },
    "vocabulary/minilm.py": {
        "MiniLMTextEncoder.embed": "rows = np.random.default_rng().normal(size=(len(texts), self.dim))\n"
        "return unit_rows(rows.astype(np.float32))"
    },
}
"""Functions that break a promise when they get another body."""


def mutants(file: str) -> Iterator[tuple[str, str]]:
    """All mutants of a module: what is off, and its text; one per `raise` of a guarded one and entry of `BROKEN`."""
    source = (REPOSITORY / "ram_backend" / file).read_text(encoding="utf-8")
    for line in [node.lineno for node in ast.walk(ast.parse(source)) if _refuses(node)] if file in GUARDED else []:
        tree = _Passing(line).visit(ast.parse(source))
        yield source.splitlines()[line - 1].strip(), ast.unparse(tree)
    for name, body in BROKEN.get(file, {}).items():
        tree = ast.parse(source)
        _function(tree, name).body = ast.parse(body).body
        yield name, ast.unparse(tree)


def _refuses(node: ast.AST) -> bool:
    if not isinstance(node, ast.Raise) or node.exc is None:
        return False
    return not any(name in ast.unparse(node.exc) for name in ("AssertionError", "PydanticUseDefault"))


class _Passing(ast.NodeTransformer):
    def __init__(self, line: int) -> None:
        self._line = line

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        return ast.Pass() if node.lineno == self._line else node


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    place: ast.Module | ast.ClassDef | ast.FunctionDef = tree
    for part in name.split("."):
        inside = (each for each in place.body if isinstance(each, ast.ClassDef | ast.FunctionDef))
        place = next(each for each in inside if each.name == part)
    assert isinstance(place, ast.FunctionDef)
    return place


def passes(copy: Path, tests: tuple[str, ...], limit_s: float | None = None) -> bool:
    """Whether the tests pass in the copy; a run over the limit has failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not e2e"]
    command += [f"tests/{each}" for each in tests]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main(files: list[str]) -> int:
    """Prints each mutant with its fate; 1 where one survived."""
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("ram_backend", "starter", "tests"):
            shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", copy)
        for file in files or TESTS:
            broken = copy / "ram_backend" / file
            source = broken.read_text(encoding="utf-8")
            started = time.monotonic()
            if not passes(copy, TESTS[file]):
                sys.exit(f"{', '.join(TESTS[file])}: fail without a mutant, too")
            limit_s = max(SHORTEST_LIMIT_S, ENDLESS * (time.monotonic() - started))
            for what, text in mutants(file):
                broken.write_text(text, encoding="utf-8")
                survived = passes(copy, TESTS[file], limit_s)
                survivors += survived
                print("SURVIVED" if survived else "killed  ", file, what, flush=True)
            broken.write_text(source, encoding="utf-8")
    print(f"{survivors} survived")
    return min(1, survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
