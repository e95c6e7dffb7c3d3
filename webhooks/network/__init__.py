"""HTTP requests under guard: only to allowed addresses, each within one total deadline and with capped sizes.

request       a request as a value
auth          credentials by the project's own code, which may look at the answer
transport     sends requests over kept connections, many at once
connect       resolves a name, judges every address, connects, through a proxy and TLS
url_policy    which hosts, ports and addresses are allowed
sockets       connects, sends and reads without blocking
loop          runs many requests in one thread
answer        reads an HTTP answer
outcome       the result as a value
headers       headers as admins write them
"""
