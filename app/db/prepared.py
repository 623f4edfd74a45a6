"""Hot reads: a SELECT that is compiled once and asked on the driver's own cursor.

SQLAlchemy's execution of a statement costs several times what the driver needs for it. A :class:`PreparedSelect`
keeps what SQLAlchemy is good at, the statement, its dialects and types, the pool and the kinds of errors, and leaves
out the rest: no execution context, no events, no result object. Rows are tuples with names.
"""

from __future__ import annotations

import time
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias, cast

from sqlalchemy import Dialect, Engine, PoolProxiedConnection, Select
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError

from app.db.time_limits import StatementLimit

Values: TypeAlias = Mapping[str, Any]
_Step: TypeAlias = Callable[[Any], Any]


class Record(tuple[Any, ...]):
    """A row: a tuple whose members have the names of their columns, too."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class PreparedSelect:
    """A SELECT with named parameters (``bindparam``). Thread-safe; made once, its compiled form is kept.

    Args:
        statement: Its columns have names that Python takes for attributes. Parameters that are written into the text
            each time (``in_`` with a list, ``literal_execute``) have no place in it.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        self.statement = statement
        self._form: tuple[Dialect, SqlForm] | None = None

    def form(self, dialect: Dialect) -> SqlForm:
        """Return it in the words of a database; the last one asked for is kept."""
        known = self._form
        if known is None or known[0] is not dialect:
            known = self._form = (dialect, _compile(self.statement, dialect))
        return known[1]


@dataclass(slots=True)
class SqlForm:
    """A statement in the words of one database.

    Attributes:
        text: For the driver.
        names: Of all parameters.
        fixed: Values of those that the statement itself has written.
        writers: What turns a value into the driver's, by name, where that is needed.
        order: The names in the order of the text; None when the driver takes them by name.
        types: Those of the columns, in order.
        row: Makes a record of a tuple.
        readers: What turns the driver's value into ours, by position, where that is needed; None before the first
            answer, which tells the driver's types.
    """

    text: str
    names: frozenset[str]
    fixed: Values
    writers: Sequence[tuple[str, _Step]]
    order: Sequence[str] | None
    types: Sequence[Any]
    row: Callable[[Sequence[Any]], Record]
    readers: Sequence[tuple[int, _Step]] | None = field(default=None)

    def parameters(self, values: Values) -> Any:
        """Return values as the driver wants them.

        Raises:
            KeyError: One is missing, or one too many.
        """
        given = {**self.fixed, **values}
        if given.keys() != self.names:
            raise KeyError(*(given.keys() ^ self.names))
        for name, write in self.writers:
            given[name] = write(given[name])
        return given if self.order is None else [given[name] for name in self.order]

    def records(self, answer: Sequence[Sequence[Any]], dialect: Dialect, cursor: DBAPICursor) -> list[Record]:
        """Return the driver's rows as ours."""
        if self.readers is None:
            told = [column[1] for column in cursor.description]
            found = [_reader(*pair, dialect) for pair in zip(self.types, told, strict=True)]
            self.readers = [(place, read) for place, read in enumerate(found) if read is not None]
        if not self.readers:
            return list(map(self.row, answer))
        rows = []
        for values in map(list, answer):
            for place, read in self.readers:
                values[place] = read(values[place])
            rows.append(self.row(values))
        return rows


def _reader(kind: Any, told: Any, dialect: Dialect) -> _Step | None:
    return cast("_Step | None", kind.dialect_impl(dialect).result_processor(dialect, told))


def _record_class(names: Sequence[str]) -> Any:
    return namedtuple("Record", names)  # noqa: PYI024  # the names are known at run time only


def _compile(statement: Select[*tuple[Any, ...]], dialect: Dialect) -> SqlForm:
    compiled: Any = statement.compile(dialect=dialect)
    columns = list(statement.selected_columns)
    binds = compiled.binds
    writers = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in binds.items()}
    names = [str(column.key) for column in columns]
    return SqlForm(
        text=str(compiled),
        names=frozenset(binds),
        fixed={name: bind.effective_value for name, bind in binds.items() if not bind.required},
        writers=[(name, write) for name, write in writers.items() if write is not None],
        order=compiled.positiontup if compiled.positional else None,
        types=[column.type for column in columns],
        row=_record_class(names)._make,
    )


class ReadObserver(Protocol):
    """Who hears of prepared reads. Must neither raise nor block."""

    def statement_ended(self, statement: str, seconds: float) -> None:
        """A statement took so long, whatever came of it."""
        ...

    def statement_failed(self, connection: PoolProxiedConnection | None, error: Exception) -> bool:
        """A statement, or connecting, has failed; return whether the connection is lost."""
        ...


class PreparedReads:
    """Asks prepared statements, each standing alone on a connection of the pool. Thread-safe.

    Args:
        engine: Whose connections commit each statement by itself.
        limit: Gives no statement more time than its request has.
        observer: Who hears of them.
    """

    def __init__(self, engine: Engine, limit: StatementLimit, observer: ReadObserver) -> None:
        self._engine = engine
        self._dialect = engine.dialect
        self._errors = engine.dialect.loaded_dbapi.Error
        self._limit = limit
        self._observer = observer

    def ask(self, select: PreparedSelect, values: Values) -> list[Record]:
        """Return all rows that a statement finds.

        Args:
            select: The statement.
            values: Of its parameters.

        Raises:
            DBAPIError: As SQLAlchemy would raise it.
            TimeoutError: SQLAlchemy's: no free connection in time.
            DeadlineExceededError: The request has no time left.
        """
        form = select.form(self._dialect)
        try:
            connection = self._engine.raw_connection()
        except self._errors as error:
            self._fail(form.text, None, error)
        try:
            return self._ask(form, form.parameters(values), connection)
        except self._errors as error:
            self._fail(form.text, connection, error)
        except Exception:
            raise
        except BaseException:
            connection.invalidate()  # its answer may still be under way
            raise
        finally:
            connection.close()

    def _ask(self, form: SqlForm, parameters: Any, connection: PoolProxiedConnection) -> list[Record]:
        cursor = connection.cursor()
        self._limit.apply(connection.info, cursor, in_transaction=False)
        began = time.perf_counter()
        try:
            cursor.execute(form.text, parameters)
        finally:
            self._observer.statement_ended(form.text, time.perf_counter() - began)
        records = form.records(cursor.fetchall(), self._dialect, cursor)
        cursor.close()
        return records

    def _fail(self, statement: str, connection: PoolProxiedConnection | None, error: Exception) -> NoReturn:
        raise DBAPIError.instance(
            statement,
            None,
            error,
            self._errors,
            hide_parameters=True,
            connection_invalidated=self._observer.statement_failed(connection, error),
            dialect=self._dialect,
        ) from error
