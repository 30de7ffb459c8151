"""What the documentation shows is run: the README, every page of docs/, every example.

The blocks of a page are one program, in their order, as a reader would type them: a real file,
run by a new Python in an empty folder, where a warning is an error. The line numbers of that file
are those of the page. CONTRIBUTING.md has the rules for writers.
"""

import ast
import doctest
import os
import re
import signal
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
SECONDS = 50  # below the timeout of a test, so that a program that hangs is named

# A block in another language would look like one that is run. For Python it is `python`, for
# commands `console`; the others show data.
LANGUAGES = {"console", "ini", "json", "makefile", "mermaid", "python", "sql", "text", "toml"}
ASSETS = {".css", ".js", ".png", ".svg"}


class Block(NamedTuple):
    """A fenced block: where its fence is (0 is the first line), and the marks above it."""

    language: str
    marks: tuple[str, ...]
    fence: int
    code: str

    def mark(self, name: str) -> str | None:
        """Return what follows `name` in a mark above the block, None without such a mark."""
        for mark in self.marks:
            key, _, value = mark.partition(":")
            if key == name:
                return value.strip()
        return None

    @property
    def is_run_as_python(self) -> bool:
        marked = self.mark("not executed") is not None or self.mark("file") is not None
        return self.language == "python" and not marked


def blocks_of(text: str) -> Iterator[Block]:
    """Walk the fenced blocks of a page, also those inside of lists and tabs."""
    marks: list[str] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number].strip()
        fence = re.match(r"(```+)(\w*)", line)
        if fence:
            end = number + 1
            while lines[end].strip() != fence[1]:
                end += 1
            code = dedent("\n".join(lines[number + 1 : end]))
            yield Block(fence[2], tuple(marks), number, code)
            marks, number = [], end
        elif mark := re.fullmatch(r"<!--\s*(.*?)\s*-->", line):
            marks.append(mark[1])
        elif line:
            marks = []
        number += 1


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@each_page
def test_page_runs(page, tmp_path):
    blocks = list(blocks_of(page.read_text(encoding="utf-8")))
    for block in blocks:
        if file := block.mark("file"):
            target = tmp_path / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.code + "\n", encoding="utf-8")
    if any(block.is_run_as_python for block in blocks):
        # Its own name, so that a page may import the files that it shows.
        script = tmp_path / f"{page.stem.replace('-', '_').lower()}_page.py"
        script.write_text(program(blocks), encoding="utf-8")
        run([sys.executable, "-W", "error", script.name], tmp_path)
    for block in blocks:
        if block.language == "console" and block.mark("run") is not None:
            run(["bash", "-euo", "pipefail", "-c", commands(block.code)], tmp_path)


@each_page
def test_marks_and_languages_of_a_page_are_known(page):
    for block in blocks_of(page.read_text(encoding="utf-8")):
        where = f"{name_of(page)}:{block.fence + 1}"
        assert block.language in LANGUAGES, f"{where}: one of {sorted(LANGUAGES)}"
        assert block.mark("not executed") != "", f"{where}: give the reason why it is not executed"
        if block.mark("run") is not None:
            assert commands(block.code), f"{where}: a command begins with `$ `"


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_example_prints_what_it_says(example, tmp_path):
    _, mark, expected = example.read_text(encoding="utf-8").rpartition("\n# Output:\n")
    assert mark, "end the file with `# Output:` and, as comments, what it prints"
    expected = "".join(f"{line.removeprefix('#')[1:]}\n" for line in expected.splitlines())
    printed = run([sys.executable, "-W", "error", str(example)], tmp_path)
    same = doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS)
    assert same, f"expected:\n{expected}\nprinted:\n{printed}"


def test_documentation_has_no_file_that_is_not_tested():
    tested = {*PAGES, *EXAMPLES}
    other = [
        name_of(path)
        for folder in (DOCS, ROOT / "examples")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in tested and path.suffix not in ASSETS
        if "__pycache__" not in path.parts
    ]
    assert other == []
    assert {ROOT / "README.md", DOCS / "index.md"} <= set(PAGES)
    assert EXAMPLES != []


def run(arguments: list[str], folder: Path) -> str:
    """Run a program to its end, with all that it started, and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if "OMNIQ" not in key}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment["PYTHONWARNINGS"] = "error"
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, complaints = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    # A warning in a destructor cannot end the program; it is only printed.
    ended_well = process.returncode == 0 and "Exception ignored" not in complaints
    assert ended_well, f"exit status {process.returncode}\n{printed}\n{complaints}"
    return printed


def commands(code: str) -> str:
    """Return the lines after a prompt, `$ ` or, for a line that goes on, `> `."""
    return "\n".join(line[2:] for line in code.splitlines() if line.startswith(("$ ", "> ")))


# A page as a program.


def program(blocks: list[Block]) -> str:
    """Return the Python blocks of a page as one file, each on its own lines.

    From the first block with an `await` at its top level on, the rest of the page stands in an
    `async def`, because a file may not await. Its names stay global, so that its functions are
    importable by name and see each other, as on the page.
    """
    python = [block for block in blocks if block.is_run_as_python]
    first = next((i for i, block in enumerate(python) if awaits(block.code)), len(python))
    lines: list[str] = []
    for block in python[:first]:
        put(lines, block.fence + 1, block.code)
    if first == len(python):
        return "\n".join(lines) + "\n"
    body: list[str] = []
    for block in python[first:]:
        put(body, block.fence + 1, block.code)
    start = python[first].fence  # the fence's own line, and the one above it, have no code
    assert start > 0, "begin the page with a heading"
    put(lines, start - 1, "async def the_page():")
    put(lines, start, "    " + global_statement("\n".join(body)))
    put(lines, start + 1, indent_code("\n".join(body[start + 1 :])))
    return (
        "\n".join(lines)
        + '\nif __name__ == "__main__":\n    import asyncio\n'
        + ("    asyncio.run(the_page())\n")
    )


def put(lines: list[str], number: int, code: str) -> None:
    lines += [""] * (number - len(lines))
    lines += code.splitlines()


def awaits(code: str) -> bool:
    """Say whether code awaits outside of its own functions."""
    waiting: list[ast.AST] = list(ast.parse(code).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            return True
        if isinstance(node, ast.comprehension) and node.is_async:
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)
    return False


def global_statement(code: str) -> str:
    """Declare the names that the code binds. One with an annotation cannot be global."""
    table = symtable.symtable(f"async def _():\n{indent_code(code)}\n", "page", "exec")
    # Python 3.14 has a table before it, for the annotations.
    function = next(child for child in table.get_children() if child.get_name() == "_")
    names = [
        symbol.get_name()
        for symbol in function.get_symbols()
        if symbol.is_local() and not symbol.is_annotated()
    ]
    return f"global {', '.join(names)}" if names else "pass"


def indent_code(code: str) -> str:
    """Indent code, but not the inside of its strings."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno:
            inside.update(range(node.lineno, node.end_lineno))
    lines = code.splitlines()
    return "\n".join(
        line if number in inside else indent(line, "    ") for number, line in enumerate(lines)
    )


# The runner's own claims.


def test_page_without_await_is_left_as_it_is():
    text = "# A\n\n```python\nx = 1\n```\n\ntext\n\n```python\nprint(x)\n```\n"
    assert program(list(blocks_of(text))) == "\n\n\nx = 1\n\n\n\n\n\nprint(x)\n"


def test_page_with_await_runs_in_a_loop_and_keeps_its_names_and_lines(tmp_path):
    page = dedent(
        '''\
        # A

        ```python
        import asyncio
        ```
        ```python
        async def double(x):
            return 2 * x

        four: int = await double(2)
        text = """
        kept as it is
        """
        ```

        ```python
        def later():
            return text

        assert (later(), four) == ("\\nkept as it is\\n", 4)
        print(double.__qualname__, "text" in globals(), later.__code__.co_firstlineno)
        ```
        '''
    )
    script = tmp_path / "page.py"
    script.write_text(program(list(blocks_of(page))), encoding="utf-8")
    assert run([sys.executable, str(script)], tmp_path) == "double True 17\n"


def test_block_is_left_out_with_a_reason_and_a_file_is_not_run():
    text = "<!-- not executed: needs a server -->\n```python\n1 / 0\n```\n"
    text += "<!-- file: app.py -->\n\n```python\n1 / 0\n```\n"
    left_out, file = blocks_of(text)
    assert (left_out.mark("not executed"), left_out.is_run_as_python) == ("needs a server", False)
    assert (file.mark("file"), file.is_run_as_python) == ("app.py", False)


def test_commands_are_what_follows_a_prompt():
    assert commands("$ omniq demo \\\n> --journal x\ntasks: 3\n$ true") == (
        "omniq demo \\\n--journal x\ntrue"
    )


def test_program_that_fails_or_warns_fails_the_test(tmp_path):
    for code in ("1 / 0", "import warnings; warnings.warn('x')", "open('f', 'w')"):
        with pytest.raises(AssertionError, match="exit status"):
            run([sys.executable, "-W", "error", "-c", code], tmp_path)
