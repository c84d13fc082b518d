"""Whether the fields of an entry have words that they may have."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.registry.params import Param
from cnnviz.registry.specs import EntrySpec


def check_words(spec: EntrySpec) -> None:
    """Refuse an entry, or an option of it, with a word in a field that takes only certain ones.

    Types hold this for the entries of cnnviz itself; those of other packages may never have been type-checked.

    Raises:
        CnnvizError: Names the field and the words that it takes, with near matches.
    """
    for what in (spec, *spec.params):
        of = f" of option {what.name}" if isinstance(what, Param) else ""
        for name, hint in get_type_hints(type(what)).items():
            several = get_origin(hint) is tuple
            words = _words(get_args(hint)[0] if several else hint)
            value = getattr(what, name)
            if words and several and not isinstance(value, tuple):
                named = ", ".join(map(repr, words))
                raise CnnvizError(f"{name}{of} is {shown(value)}: expected several of {named}.", "Give a tuple.")
            for word in (value if several else (value,)) if words else ():
                if word not in words:
                    near = nearest(str(word), filter(None, map(str, words))) or "Use one of them."
                    named = ", ".join(map(repr, words))
                    raise CnnvizError(f"{name}{of} is {shown(word)}: expected one of {named}.", near)


def _words(hint: Any) -> tuple[Any, ...]:
    """The values that a type allows, where it allows only some."""
    if hint is bool:
        return (True, False)
    return get_args(hint) if get_origin(hint) is Literal else ()
