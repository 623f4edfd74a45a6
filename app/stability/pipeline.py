"""Policies around a function, in a fixed order, linked once.

::

    storage = Pipeline("storage_read", [timeout, retry, breaker, bulkhead])

    storage.call(store.head, key)      outermost first: timeout(retry(breaker(bulkhead(store.head(key)))))

    @storage                           the same, as a decorator
    def fetch(key: str) -> bytes: ...

Linking costs some microseconds and is done when the pipeline is made; a call only walks the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from operator import call as _invoke
from typing import Any, ParamSpec, TypeVar

from .call import Call, Linkable, Policy, Proceed

P = ParamSpec("P")
R = TypeVar("R")
PolicyT = TypeVar("PolicyT")


class Pipeline:
    """Policies, outermost first. Immutable, thread-safe.

    Args:
        name: For logs and commands.
        policies: Outermost first; none of them twice, because it would wait for itself. Empty lets all calls pass.

    Raises:
        TypeError: Something is no policy.
        ValueError: A policy stands there twice.
    """

    def __init__(self, name: str, policies: Sequence[Policy] = ()) -> None:
        if len({id(policy) for policy in policies}) != len(policies):
            message = f"the pipeline {name!r} has one and the same policy twice"
            raise ValueError(message)
        for policy in policies:
            if isinstance(policy, type) or not callable(getattr(policy, "execute", None)):
                message = f"the pipeline {name!r} has {policy!r}, which is no policy: it needs a method execute()"
                raise TypeError(message)
        self.name = name
        self.policies = tuple(policies)
        entry: Proceed = _invoke
        for policy in reversed(self.policies):
            entry = _link(policy, entry)
        self._entry = entry

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function through the policies.

        Raises:
            CallRefusedError: A policy refused; the function was not called.
            DeadlineExceededError: No time was left.
            Exception: Whatever the function raised.
        """
        result: R = self._entry(Call(function, *args, **kwargs))
        return result

    def run(self, call: Call[R]) -> R:
        """Run a call that was made beforehand, to say more of it than its function; see :meth:`call`."""
        result: R = self._entry(call)
        return result

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with the policies around it: ``@pipeline``.

        Raises:
            TypeError: It cannot be called, or is a coroutine function: only the making of its coroutine would be
                guarded.
        """
        given: Any = function
        if not callable(given):
            message = f"the pipeline {self.name!r} guards functions, and {given!r} cannot be called"
            raise TypeError(message)
        if iscoroutinefunction(function):
            message = f"{function.__qualname__} is a coroutine function; pipelines guard synchronous functions only"
            raise TypeError(message)
        entry = self._entry

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            result: R = entry(Call(function, *args, **kwargs))
            return result

        return guarded

    def find(self, kind: type[PolicyT]) -> PolicyT | None:
        """Return the outermost policy of a class, None when there is none."""
        return next((policy for policy in self.policies if isinstance(policy, kind)), None)

    def __repr__(self) -> str:
        return (
            f"Pipeline({self.name!r}, {' > '.join(type(policy).__name__ for policy in self.policies) or 'nothing'})"
        )


def _link(policy: Policy, proceed: Proceed) -> Proceed:
    if isinstance(policy, Linkable):
        return policy.link(proceed)
    execute = policy.execute

    def step(call: Call[Any]) -> Any:
        return execute(call, proceed)

    return step
