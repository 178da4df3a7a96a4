"""Opens a mailbox again and again with Python's imaplib.

    imaplib_loop.py HOST PORT USER PASSWORD RUNS [CA-FILE]

ID, LOGIN, NAMESPACE, LIST, SELECT INBOX, FETCH of the newest 20, LOGOUT (and CAPABILITY, which imaplib always sends);
with a CA file over TLS, whose context is made once for all runs. Any answer but OK ends it.
"""

import imaplib
import ssl
import sys

ITEMS = (
    "(UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS"
    " (DATE FROM TO CC SUBJECT MESSAGE-ID REFERENCES IN-REPLY-TO CONTENT-TYPE)])"
)
NEWEST = 20


def ok(answer):
    status, data = answer
    if status != "OK":
        raise SystemExit(f"{status} {data}")
    return data


def open_mailbox(connection, user, password):
    ok(connection.xatom("ID", '("name" "imaplib")'))
    ok(connection.login(user, password))
    ok(connection.namespace())
    ok(connection.list('""', '"*"'))
    last = int(ok(connection.select("INBOX"))[0])
    rows = ok(connection.fetch(f"{max(last - NEWEST + 1, 1)}:{last}", ITEMS))
    if sum(isinstance(row, tuple) for row in rows) != min(last, NEWEST):
        raise SystemExit(f"{len(rows)} rows of {last} messages")
    connection.logout()


def main(host, port, user, password, runs, ca=None):
    context = ssl.create_default_context(cafile=ca) if ca else None
    for _ in range(int(runs)):
        if context:
            connection = imaplib.IMAP4_SSL(host, int(port), ssl_context=context)
        else:
            connection = imaplib.IMAP4(host, int(port))
        open_mailbox(connection, user, password)


main(*sys.argv[1:])
