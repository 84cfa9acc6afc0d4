"""A client on ftplib: ftplib_client.py PORT CAFILE USER PASSWORD VERB ARGUMENTS…

Without a CAFILE ("") nothing is encrypted.
"""

import ftplib
import ssl
import sys


def connect(port, cafile, user, password):
    if cafile:
        ftp = ftplib.FTP_TLS(context=ssl.create_default_context(cafile=cafile), timeout=30)
    else:
        ftp = ftplib.FTP(timeout=30)
    ftp.encoding = "utf-8"
    ftp.connect("127.0.0.1", int(port))
    ftp.login(user, password)
    if cafile:
        ftp.prot_p()
    return ftp


def put(ftp, local, remote):
    with open(local, "rb") as source:
        ftp.storbinary("STOR " + remote, source)


def get(ftp, local, remote):
    with open(local, "wb") as target:
        ftp.retrbinary("RETR " + remote, target.write)


def append(ftp, local, remote):
    with open(local, "rb") as source:
        source.seek(ftp.size(remote))
        ftp.storbinary("APPE " + remote, source)


def restart(ftp, local, remote):
    with open(local, "rb") as source:
        offset = ftp.size(remote)
        source.seek(offset)
        ftp.storbinary("STOR " + remote, source, rest=offset)


def reget(ftp, local, remote):
    with open(local, "ab") as target:
        ftp.retrbinary("RETR " + remote, target.write, rest=target.tell())


def setattr_(ftp, remote, _):
    ftp.sendcmd("SITE CHMOD 640 " + remote)
    ftp.sendcmd("MFMT 20210304050607 " + remote)


def list_(ftp, directory):
    facts = dict(ftp.mlsd(directory, ["type"]))
    names = ftp.nlst(directory)
    if [n.rpartition("/")[2] for n in names] != [n for n, f in facts.items() if f["type"] == "file"]:
        sys.exit("MLSD and NLST differ")
    print(*names, sep="\n")


VERBS = {
    "put": put,
    "get": get,
    "stream": lambda ftp, remote: ftp.storbinary("STOR " + remote, sys.stdin.buffer),
    "append": append,
    "restart": restart,
    "reget": reget,
    "rename": lambda ftp, a, b: ftp.rename(a, b),
    "setattr": setattr_,
    "mkdir": lambda ftp, a, _: ftp.mkd(a),
    "remove": lambda ftp, a, _: ftp.delete(a),
    "list": list_,
}


def main():
    with connect(*sys.argv[1:5]) as ftp:
        VERBS[sys.argv[5]](ftp, *sys.argv[6:])


main()
