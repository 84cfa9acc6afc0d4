"""A client on paramiko: paramiko_client.py PORT USER KEYFILE FINGERPRINTS VERB ARGUMENTS…"""

import base64
import calendar
import hashlib
import sys

import paramiko


def connect(port, user, keyfile, fingerprints):
    transport = paramiko.Transport(("127.0.0.1", int(port)))
    transport.start_client(timeout=20)
    digest = hashlib.sha256(transport.get_remote_server_key().asbytes()).digest()
    found = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    if found not in fingerprints.split(","):
        sys.exit("unexpected host key " + found)
    transport.auth_publickey(user, paramiko.Ed25519Key.from_private_key_file(keyfile))
    return transport, paramiko.SFTPClient.from_transport(transport)


def resume(sftp, local, remote):
    with open(local, "rb") as source, sftp.open(remote, "ab") as target:
        source.seek(sftp.stat(remote).st_size)
        target.set_pipelined(True)
        while block := source.read(32768):
            target.write(block)


def setattr_(sftp, remote, _):
    sftp.chmod(remote, 0o604)
    when = calendar.timegm((2021, 3, 4, 5, 6, 7))
    sftp.utime(remote, (when, when))


def list_(sftp, directory):
    for name in sftp.listdir(directory):
        print(name)


VERBS = {
    "put": lambda sftp, a, b: sftp.put(a, b),
    "get": lambda sftp, a, b: sftp.get(b, a),
    "resume": resume,
    "rename": lambda sftp, a, b: sftp.rename(a, b),
    "posix_rename": lambda sftp, a, b: sftp.posix_rename(a, b),
    "setattr": setattr_,
    "mkdir": lambda sftp, a, _: sftp.mkdir(a),
    "remove": lambda sftp, a, _: sftp.remove(a),
    "symlink": lambda sftp, a, b: sftp.symlink(a, b),
    "list": list_,
}


def main():
    transport, sftp = connect(*sys.argv[1:5])
    try:
        VERBS[sys.argv[5]](sftp, *sys.argv[6:])
        sftp.close()
    finally:
        transport.close()


main()
