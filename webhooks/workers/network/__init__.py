"""HTTP requests under guard: only to allowed addresses, each within one total deadline and with capped sizes.

attempt       a request and its outcome, as values
auth          credentials, also by the project's own code, which may look at the answer
transport     sends requests over kept connections, many at once
connect       resolves a name, judges every address, connects, through a proxy and TLS
loop          runs many requests in one thread: sends and receives without blocking, and looks up names in threads
answer        reads an HTTP answer
"""
