"""A MariaDB server on a private socket, where the program is installed."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path


def is_installed():
    return shutil.which("mariadbd") is not None


@contextlib.contextmanager
def running_server():
    """Start a server and yield the URL of its empty database `mimic`, in latin1."""
    import pymysql

    # Not under pytest's own folder: the path of a socket is short.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--no-defaults", f"--datadir={folder}"]
        if os.getuid() == 0:  # it refuses to run as root
            options.append("--user=mysql")
            shutil.chown(folder, "mysql")
        subprocess.run(
            ["mariadb-install-db", *options, "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
        )
        socket = folder / "socket"
        process = subprocess.Popen(
            ["mariadbd", *options, "--skip-networking", f"--socket={socket}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(300):
                if socket.exists():
                    break
                time.sleep(0.1)
            with pymysql.connect(user="root", unix_socket=str(socket)) as con:
                con.cursor().execute("CREATE DATABASE mimic CHARACTER SET latin1")
            yield f"mysql://root@localhost/mimic?unix_socket={socket}"
        finally:
            process.terminate()
            process.wait(30)
