"""A command from one dataclass: its fields are the options, its docstring is the help, and its work gets the object."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import reduce
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import typer

from fastbert_cli.errors import reported
from fastbert_cli.pairs import check_pairs

Settings = TypeVar("Settings")
Place = tuple[str, ...]  # names of the fields that lead to an option


@dataclass(frozen=True)
class Option:
    """What the declaration of an option says beside the name, type and default of its field.

    Attributes:
        help: what the option does.
        name: of the option, such as "--distil-epochs" or "--cache/--no-cache"; `None`: that of the field.
        panel: of the help.
        min: smallest value.
        max: largest value.
        metavar: of an argument, which has no name; `None`: it is an option.
        parse: makes the value from the text that was given, where the type does not say how.
    """

    help: str
    name: str | None = None
    panel: str | None = None
    min: float | None = None
    max: float | None = None
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None


class Given(dict[str, Any], Generic[Settings]):
    """The options of `Settings` that the user gave, by their key, such as "fine_tune.epochs"."""


class Command:
    """Base of the commands, which are frozen dataclasses.

    A field is an option: `epochs: Annotated[float, Option("Passes over the texts.")] = 3`. Without a default it must be
    given; one of the type `tuple[...]` may be repeated. A field that is a dataclass is a group of options, and a field
    `Given[Settings]` holds those options of a configuration that were given. A field without `Option` is no option.
    """

    extra: ClassVar[str] = "train"  # of the package: has what the command needs

    def value_at(self, place: Place) -> Any:
        """Return the value of the option whose fields have the names in `place`, given or not."""
        return reduce(getattr, place, self)

    def look(self) -> None:
        """Raise for what is wrong with the options, files and folders, before the libraries of the work are imported.

        What is found here is told within a second. It imports neither torch nor Transformers, and looks at no more than
        the first rows of a file.
        """

    def run(self) -> None:
        """Do the work."""
        raise NotImplementedError

    def stopped(self) -> str:
        """Return what to say after Ctrl-C: what is left, and how to go on."""
        return "stopped; nothing was written"


def add_command(app: typer.Typer, kind: type[Command]) -> None:
    """Add the command `kind` to `app`, by its name in lower case."""
    name = kind.__name__.lower()
    declared = {"_".join(each.place): each for each in _declarations(kind)}
    spelling = {each.place[-1]: each.typed for each in declared.values()}

    def call(context: typer.Context, **values: Any) -> None:
        from fastbert_hf.data.errors import arguments_spelt  # which the help does not need

        given = {key: value for key, value in values.items() if _source(context, key) != "DEFAULT"}
        with reported(name), arguments_spelt(spelling.get):
            command = _build(kind, {declared[key].place: declared[key].value(value) for key, value in given.items()})
            places = {each.typed: each.place for each in declared.values()}
            typed = [declared[key].typed_as(value) for key, value in given.items()]
            check_pairs(name, typed, lambda option: command.value_at(places.get(option, (option,))))
            command.look()
        with reported(name, command.stopped, kind.extra), arguments_spelt(spelling.get):
            command.run()

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
    for key, each in declared.items():
        annotation, default = each.for_typer()
        parameters.append(inspect.Parameter(key, keyword, annotation=annotation, default=default))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, help=kind.__doc__)(call)


def options_by_key(settings: Any) -> dict[str, str]:
    """Return the options of a configuration, a dataclass of sections, as typed, by their keys.

    A key is "fine_tune.epochs", and its option "--epochs".
    """
    return {".".join(each.place): each.typed for each in _declarations(settings)}


class _Declaration(NamedTuple):
    """An option with the place, type and default of its field; `MISSING`: it must be given."""

    place: Place
    kind: Any
    default: Any
    option: Option

    @property
    def typed(self) -> str:
        """The option as typed, to switch it on where it is a switch."""
        return (self.option.name or f"--{self.place[-1].replace('_', '-')}").partition("/")[0]

    def typed_as(self, given: Any) -> str:
        """Return the option as typed for the value `given`: of a switch that is off, what switches it off."""
        return (self.option.name or "").partition("/")[2] if given is False else self.typed

    def for_typer(self) -> tuple[Any, Any]:
        """Return annotation and default of the parameter that Typer reads."""
        kind, default, option = self.kind, self.default, self.option
        if option.parse is not None:
            kind, default = str | None, None
        elif get_origin(kind) is tuple:
            several: Any = list[get_args(kind)[0]]  # type: ignore[misc]
            kind, default = (several, MISSING) if default is MISSING else (several | None, list(default) or None)
        if option.metavar is not None:
            declared = typer.Argument(metavar=option.metavar, help=option.help)
        else:
            declared = typer.Option(
                option.name or f"--{self.place[-1].replace('_', '-')}",
                help=option.help,
                rich_help_panel=option.panel,
                min=option.min,
                max=option.max,
            )
        return Annotated[kind, declared], inspect.Parameter.empty if default is MISSING else default

    def value(self, given: Any) -> Any:
        """Return what was given as a value of the field."""
        if self.option.parse is not None:
            return self.option.parse(given)
        return tuple(given) if isinstance(given, list | tuple) else given


def _declarations(kind: Any, place: Place = ()) -> Iterator[_Declaration]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, here = hints[field.name], (*place, field.name)
        group = get_args(hint)[0] if get_origin(hint) is Given else hint
        if is_dataclass(group):
            yield from _declarations(group, here)
        elif get_origin(hint) is Annotated:
            value, option = get_args(hint)
            yield _Declaration(here, value, field.default, option)


def _build(kind: Any, given: Mapping[Place, Any]) -> Any:
    """Return a dataclass with the values that were given and the defaults of the others."""
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner = {place[1:]: value for place, value in given.items() if place[0] == name}
        if get_origin(hint) is Given:
            values[name] = Given({".".join(place): value for place, value in inner.items()})
        elif is_dataclass(hint):
            values[name] = _build(hint, inner)
        elif () in inner:
            values[name] = inner[()]
    return kind(**values)


def _source(context: typer.Context, key: str) -> str:
    source = context.get_parameter_source(key)
    return "" if source is None else source.name
