"""Nouns whose verbs are imported only when they are asked for, and help in sections."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

import typer
import typer.core
import typer.main

from bocage.cli.options import EVERYWHERE

_ORDER = {"Arguments": 0, "Options": 1, EVERYWHERE: 3}  # others stand between
_WITH_H: dict[str, Any] = {"context_settings": {"help_option_names": ["--help", "-h"]}}
Sections = Mapping[str, Mapping[str, str]]


class Verb(typer.core.TyperCommand):
    """A command whose help shows its options by panel, and examples at its end."""

    examples = ""

    def get_help_option(self, ctx: Any) -> Any:
        return _take_text_as_it_is(super().get_help_option(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        shown = [one.metavar or (one.name or "").upper() for one in arguments]
        return [
            "[OPTIONS]",
            *(name if one.required else f"[{name}]" for one, name in zip(arguments, shown, strict=True)),
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                usual = "Options"
                if param.param_type_name == "argument":
                    usual, record = "Arguments", (param.metavar or record[0], getattr(param, "help", None) or "")
                panels.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for title, records in sorted(panels.items(), key=lambda panel: _ORDER.get(panel[0], 2)):
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.examples, formatter)


class Group(typer.core.TyperGroup):
    """A noun. `verbs` has, section by section, each verb's `module:function` below `bocage.cli`."""

    def __init__(self, name: str, *, help: str, verbs: Sections, examples: str = "") -> None:  # noqa: A002
        super().__init__(name=name, help=help, no_args_is_help=True, rich_markup_mode=None, **_WITH_H)
        self.sections = verbs
        self.examples = textwrap.dedent(examples).strip()
        self._places = {verb: place for section in verbs.values() for verb, place in section.items()}

    def get_help_option(self, ctx: Any) -> Any:
        return _take_text_as_it_is(super().get_help_option(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in self._places:
            self.commands[cmd_name] = load(cmd_name, self._places[cmd_name])
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-") and not ctx.resilient_parsing:
            from bocage.cli import unknown

            raise unknown.verb(self.name or "", args, list(self._places))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(len(verb) for verb in self._places)
        for title, verbs in self.sections.items():
            records = []
            for verb in verbs:
                command = self.get_command(ctx, verb)
                records.append((verb.ljust(width), short(command.help or "", formatter.width - width - 6)))
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.examples, formatter)


def short(text: str, limit: int) -> str:
    """The first sentence of a help text, or as much of it as says something by itself within `limit`."""
    sentence = " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    for mark in ("; ", ": ", ", "):
        if len(sentence) > limit:
            sentence = sentence.rpartition(mark)[0] or sentence
    return sentence if len(sentence) <= limit else sentence[: limit - 1].rstrip() + "…"


def load(verb: str, place: str) -> Any:
    """The command that stands at `module:name` below `bocage.cli`."""
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(f"bocage.cli.{module}"), name)
    if isinstance(found, typer.core.TyperGroup):
        return found
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    text, _, examples = inspect.cleandoc(found.__doc__ or "").partition("\nExamples:\n")
    app.command(verb, cls=Verb, help=text.strip(), no_args_is_help=False)(found)
    command = typer.main.get_command(app)
    assert isinstance(command, Verb)
    for param in command.params:
        _take_text_as_it_is(param)
    command.examples = textwrap.dedent(examples).strip()
    return command


def _take_text_as_it_is(param: Any) -> Any:
    """Spare the conversion of what is text already, or not given: Typer's imports pydantic, which takes 70 ms."""
    if param is None or "process_value" in vars(param):
        return param
    convert, kind = param.process_value, getattr(getattr(param, "type_descriptor", None), "annotation", None)
    several = param.multiple or param.nargs == -1

    def process(ctx: Any, value: Any) -> Any:
        text = isinstance(value, str) if kind is str else kind == list[str] and isinstance(value, (list, tuple))
        if value is None and not param.required:
            value = () if several else None
        elif not (text and value):
            return convert(ctx, value)
        return param.callback(ctx, param, value) if param.callback else value

    param.process_value = process
    return param


def _write_examples(examples: str, formatter: Any) -> None:
    if examples:
        with formatter.section("Examples"):
            for line in examples.splitlines():
                formatter.write(f"  {line}\n")


def offer_completion(group: Group) -> None:
    """Let a person install completion: two options more."""
    if not group.params:
        group.params.extend(typer.main.get_install_completion_arguments())
