"""Google Drive's pages on this machine: an HTTPS proxy that answers for its hosts itself."""

from __future__ import annotations

import shutil
import ssl
import subprocess

from fault_server import Handler

HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")


def make_certificate(folder):
    """Make a key and a certificate for Drive's hosts; None without the openssl program."""
    if shutil.which("openssl") is None:
        return None
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={names}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def site(key, certificate) -> type[Handler]:
    """Return the handler of a proxy that ends TLS for every host with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Site(Handler):
        def do_CONNECT(self):
            self.send_response(200)
            self.end_headers()
            self.host = self.path.partition(":")[0]
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False

    return Site


def confirmation(identifier: str) -> bytes:
    """Return the page that Drive shows instead of a file too large for its virus scan."""
    return f"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head>
<body><form id="download-form" action="https://drive.usercontent.google.com/download" method="get">
<input type="hidden" name="id" value="{identifier}"><input type="hidden" name="confirm" value="t">
<input type="submit" value="Download anyway"></form></body></html>""".replace("\n", "").encode()


def refusal(reason: str) -> bytes:
    """Return the page that Drive shows instead of a file it does not hand out."""
    return f"""<!DOCTYPE html><html><head><title>Google Drive</title></head><body>
<p class="uc-error-subcaption">{reason}</p>
</body></html>""".encode()


def listing(files: dict[str, str]) -> bytes:
    """Return the embedded view of a folder: file name to identifier."""
    links = "".join(
        f'<a href="https://drive.google.com/file/d/{identifier}/view">{name}</a>'
        for name, identifier in files.items()
    )
    return f"<html><head><title>scGPT_human</title></head><body>{links}</body></html>".encode()
