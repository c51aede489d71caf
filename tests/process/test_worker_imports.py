"""What the workers of ``optimize`` and ``map`` import: nothing heavy that ``fn`` does not need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

HEAVY = {"torch", "aiobotocore", "botocore", "pyarrow", "PIL", "aiohttp", "lightning", "ray"}


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str, timeout_s: float = 60) -> Any: ...


def test_workers_import_what_fn_needs(run_python: RunPython, tmp_path: Path) -> None:
    found = run_python(
        """
        import json, sys
        import aiolit

        def sample(number):
            import sys
            return {"n": number, "modules": json.dumps(sorted(sys.modules))}

        def note(number, folder):
            import sys
            with open(f"{folder}/{number}.json", "w") as file:
                json.dump(sorted(sys.modules), file)

        if __name__ == "__main__":
            aiolit.optimize(sample, [1, 2], sys.argv[1], chunk_size=1, num_workers=2)
            aiolit.map(note, [1, 2], sys.argv[2], num_workers=2)
            assert "torch" not in sys.modules
            for sample in aiolit.StreamingDataset(sys.argv[1]):
                print(sample["modules"])
        """,
        str(tmp_path / "samples"),
        str(tmp_path / "files"),
    )
    assert found.returncode == 0, found.stderr
    lists = [json.loads(line) for line in found.stdout.splitlines()]
    lists += [json.loads(path.read_text()) for path in (tmp_path / "files").glob("*.json")]
    assert len(lists) == 4
    assert all(HEAVY.isdisjoint(modules) for modules in lists)
