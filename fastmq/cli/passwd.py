"""`fastmq passwd`: the options of mosquitto_passwd, and its files."""

import sys
from pathlib import Path

import click

from fastmq.auth import hashes, password_file
from fastmq.auth.text_file import TextFileError, read_text

EXIT_FAILED = 1


@click.command("passwd")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("user", required=False)
@click.argument("password", required=False)
@click.option("-c", "--create", is_flag=True, help="Begin a new file; one that is there is overwritten.")
@click.option("-b", "--batch", is_flag=True, help="Take the password from the command line, where others may see it.")
@click.option("-D", "--delete", is_flag=True, help="Delete the user.")
@click.option("-U", "--upgrade", is_flag=True, help="Hash the passwords that are in the file in the clear.")
@click.option("-H", "--hash", "kind", type=click.Choice(hashes.KINDS), default=hashes.KINDS[0], show_default=True)
@click.option("-I", "--iterations", type=click.IntRange(1, hashes.ITERATIONS_MAX), help="For sha512-pbkdf2 and SCRAM.")
def command(
    file: Path,
    user: str | None,
    password: str | None,
    create: bool,
    batch: bool,
    delete: bool,
    upgrade: bool,
    kind: str,
    iterations: int | None,
) -> None:
    """Add, change and delete the users of a password file.

    The password is asked for, or read from standard input if that is no terminal: its first line. `fastmq serve`
    notices the new file by itself. Mosquitto reads it, too, if the hash is one of those it knows.
    """
    _check(user, password, create=create, batch=batch, delete=delete, upgrade=upgrade)

    def make(secret: bytes) -> str:
        try:
            return hashes.make(secret, kind, iterations)
        except hashes.BadHash as error:
            raise TextFileError(f"the hash {error}") from None

    try:
        if upgrade:
            text, count = password_file.hashed(read_text(file), str(file), make)
            password_file.write(file, text)
            click.echo(f"{file}: {count} passwords hashed")
            return
        assert user is not None
        before = "" if create else read_text(file)
        try:
            hash = None if delete else make(read_password(password))
            password_file.write(file, password_file.changed(before, user, hash))
        except KeyError:
            raise TextFileError(f"{file}: there is no user {user}") from None
    except (TextFileError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_FAILED)


def _check(user: str | None, password: str | None, *, create: bool, batch: bool, delete: bool, upgrade: bool) -> None:
    wrong: list[tuple[bool, str]] = [
        (upgrade and (create or batch or delete or user is not None), "-U takes a file, and nothing else"),
        (not upgrade and user is None, "Missing argument 'USER'."),
        (delete and (create or batch), "-D goes with neither -c nor -b"),
        (batch and password is None, "-b needs the password as an argument"),
        (password is not None and not batch, "a password on the command line needs -b"),
    ]
    for applies, message in wrong:
        if applies:
            raise click.UsageError(message)


def read_password(given: str | None) -> bytes:
    """The password that was given; else it is asked for, or read from standard input if that is no terminal.

    :raises TextFileError: no client could send it.
    """
    if given is not None:
        return _usable(given)
    if not sys.stdin.isatty():
        return _usable(sys.stdin.readline().rstrip("\n").rstrip("\r"))
    asked: str = click.prompt("Password", hide_input=True, confirmation_prompt="Again")
    return _usable(asked)


def _usable(password: str) -> bytes:
    secret = password.encode()
    if not secret:
        raise TextFileError("an empty password is none")
    if len(secret) > hashes.PASSWORD_MAX_BYTES:
        raise TextFileError("no client can send a password that long")
    return secret
