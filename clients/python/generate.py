"""Generates src/entity_service_client/v1 from proto/, or into the folder that is named.

protoc imports what it generates from the root of the path (`from entity.v1 import entity_pb2`): such code works in a
folder on PYTHONPATH alone, and in a package would take the name `entity` away from everybody who installs it. Its
plugins have no option for that, so the imports are made relative here. Only those of our own files, which are in one
folder, and none may be left: google.rpc and google.protobuf come with packages of their own.

protoc makes no types of stubs and no package to import from; both are made here, out of the same descriptors.
"""

from __future__ import annotations

import importlib.resources
import re
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"
PACKAGE = "entity_service_client.v1"
WIDTH = 120


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        files = compile_protos(made)
        texts = {path.name: packaged(path.read_text()) for path in sorted((made / "entity/v1").iterdir())}
    modules = {f".entity.v1.{message.name}": module_of(file) for file in files for message in file.message_type}
    for file in files:
        if not file.service:
            del texts[f"{module_of(file)}_grpc.py"]
            continue
        texts[f"{module_of(file)}_grpc.pyi"] = stub_types(file, modules)
    texts["__init__.py"] = package_init(files)
    texts["reasons.py"] = reasons(files)
    for name, text in texts.items():
        if re.search(r"^\s*(from|import) entity\b", text, re.MULTILINE):
            raise SystemExit(f"{name} imports from outside of the package: protoc writes imports in another way now")
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        if old.is_file() and old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8", newline="\n")


def compile_protos(made: Path) -> list[FileDescriptorProto]:
    """Runs protoc; answers the descriptors of our own files, by name."""
    names = [str(path.relative_to(PROTO)) for path in sorted((PROTO / "entity/v1").glob("*.proto"))]
    descriptors = made / "descriptors"
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            # proto/ holds what else it imports; protobuf's own files come with the compiler.
            f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
            *[f"--{kind}_out={made}" for kind in ("python", "pyi", "grpc_python")],
            f"--descriptor_set_out={descriptors}",
            "--include_source_info",
            *names,
        ]
    )
    if code != 0:
        raise SystemExit(f"protoc ended with {code}")
    return list(FileDescriptorSet.FromString(descriptors.read_bytes()).file)


def packaged(text: str) -> str:
    """The generated module, for our package: relative imports, and classes that know where they are (pickle does)."""
    text = re.sub(r"^from entity\.v1 import ", "from . import ", text, flags=re.MULTILINE)
    return re.sub(r"'entity\.v1\.(\w+_pb2)'", rf"'{PACKAGE}.\1'", text)


def module_of(file: FileDescriptorProto) -> str:
    return Path(file.name).stem + "_pb2"


def names_of(file: FileDescriptorProto) -> list[str]:
    """Every name that the module of messages has: messages, enums, and the values of enums."""
    values = [value.name for enum in file.enum_type for value in enum.value]
    return sorted([message.name for message in file.message_type] + [enum.name for enum in file.enum_type] + values)


def package_init(files: list[FileDescriptorProto]) -> str:
    imports, exported = [], []
    for file in files:
        modules = [(module_of(file), names_of(file))]
        if file.service:
            modules.append((f"{module_of(file)}_grpc", [f"{service.name}Stub" for service in file.service]))
        for module, names in modules:
            if names:
                imports.append(f"from .{module} import (\n" + "".join(f"    {name},\n" for name in names) + ")\n")
                exported += names
    listed = "".join(f'    "{name}",\n' for name in sorted(exported))
    return f'"""Every message, enum and stub of entity.v1. Generated: do not edit."""\n\n{"".join(imports)}\n__all__ = [\n{listed}]\n'


def reasons(files: list[FileDescriptorProto]) -> str:
    enum = next(enum for file in files for enum in file.enum_type if enum.name == "ErrorReason")
    names = [value.name.removeprefix("ERROR_REASON_") for value in enum.value if value.number != 0]
    listed = "".join(f'    "{name}",\n' for name in names)
    return (
        '"""The reasons of errors, as words. Generated: do not edit."""\n\n'
        f"from typing import Literal\n\nReason = Literal[\n{listed}]\n"
    )


def stub_types(file: FileDescriptorProto, modules: dict[str, str]) -> str:
    """The types of the stubs of a file: of a channel, and of one of grpc.aio. `modules` has that of each message."""
    methods = [method for service in file.service for method in service.method]
    used = {modules[name] for method in methods for name in (method.input_type, method.output_type)}
    lines = [
        '"""Generated: do not edit."""',
        "",
        "from typing import Any",
        "",
        "from .. import calls",
        "from . import " + ", ".join(sorted(used)),
        "",
    ]
    for index, service in enumerate(file.service):
        comments = comments_of(file, index)
        for prefix, kind in (("", "Stub"), ("Async", "AsyncStub")):
            lines += [
                "",
                f"class {service.name}{kind}:",
                *docstring(comments[-1]),
                "    def __init__(self, channel: Any) -> None: ...",
            ]
            for number, method in enumerate(service.method):
                streams = {
                    (False, False): "UnaryUnary",
                    (False, True): "UnaryStream",
                    (True, False): "StreamUnary",
                    (True, True): "StreamStream",
                }[method.client_streaming, method.server_streaming]
                names = (method.input_type, method.output_type)
                types = ", ".join(f"{modules[name]}.{name.rpartition('.')[2]}" for name in names)
                lines += [
                    "    @property",
                    f"    def {method.name}(self) -> calls.{prefix}{streams}[{types}]:",
                    *docstring(comments[number], "        "),
                    "        ...",
                ]
    return "\n".join(lines) + "\n"


def docstring(comment: str, indent: str = "    ") -> list[str]:
    lines = [line.removeprefix(" ").rstrip() for line in comment.replace("\\", "\\\\").rstrip().split("\n")]
    return [f'{indent}"""{lines[0]}', *[f"{indent}{line}".rstrip() for line in lines[1:]], f'{indent}"""']


def comments_of(file: FileDescriptorProto, service: int) -> dict[int, str]:
    """The comments of the methods of a service, by index, and its own at -1."""
    found = {}
    for location in file.source_code_info.location:
        if list(location.path[:2]) == [6, service]:
            if len(location.path) == 2:
                found[-1] = location.leading_comments
            elif len(location.path) == 4 and location.path[2] == 2:
                found[location.path[3]] = location.leading_comments
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "src/entity_service_client/v1")
