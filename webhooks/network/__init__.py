"""HTTP requests under guard: only to allowed addresses, each within one total deadline and with capped sizes.

attempt       a request and its outcome, as values
auth          credentials, also by the project's own code, which may look at the answer
transport     sends requests over kept connections, many at once
connect       resolves a name, judges every address, connects, through a proxy and TLS
url_policy    which hosts, ports and addresses are allowed
loop          runs many requests in one thread: sends and receives without blocking, and looks up names in threads
answer        reads an HTTP answer
headers       headers as admins write them
"""
