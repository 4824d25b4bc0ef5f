"""HTTP requests to this machine, without the certificates that httpx would load for each of them."""

import ssl

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
