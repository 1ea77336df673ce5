"""The keywords of haproxy.cfg that configure nothing here, each with what becomes of it. Translates none of them.

Names: the keyword matrix of HAProxy's manual (section 4.1), `haproxy -dKcfg`, and section 3 for global.
"""

from kernlb.formats.report import Remark, approximated, dropped, exact


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _each(words: str, remark: Remark) -> dict[str, Remark]:
    return dict.fromkeys(words.split(), remark)


_PROCESS = exact("about HAProxy's own process: the kernel forwards, nothing to set")
_LOGGING = dropped("no request passes through kernlb: log on the servers; changes of server state go to the journal")
_LOG_DETAIL = exact("refines a log that is not written here")
_TLS_TUNING = exact("about TLS, which no bind ends here")
_HTTP = dropped("packets are forwarded unread: do this on the servers, or in an HAProxy behind this gateway")
_HTTP_TUNING = exact("about reading HTTP, which the kernel does not")
_CONNECTION = exact("about HAProxy's own connections: the client's reaches the server itself")
_STATS = dropped("no page is served on this port: use `kernlb status`, or the daemon's own status page and metrics")
_FILTER = dropped("the kernel chooses by address and port alone: filter with nftables, or on the servers")
_STATE = exact("states are kept across reload and restart without it")

GLOBAL: dict[str, Remark] = {
    **_each(
        """
        chroot cluster-secret cpu-map daemon debug default-path expose-experimental-directives external-check
        fd-hard-limit gid grace group hard-stop-after insecure-fork-wanted insecure-setuid-wanted localpeer
        master-worker mworker-max-reloads nbproc nbthread no-memory-trimming node numa-cpu-mapping pidfile
        pp2-never-send-local profiling.tasks set-dumpable set-var set-var-fmt strict-limits thread-group
        thread-groups uid ulimit-n unix-bind user zero-warning busy-polling maxpipes noepoll noevports nogetaddrinfo
        nokqueue nopoll noreuseport nosplice quiet resetenv description close-spread-time anonkey prealloc-fd
        stress-level limited-quic no-quic
        """,
        _PROCESS,
    ),
    **_each(
        """
        ca-base crt-base issuers-chain-path maxsslconn maxsslrate ssl-engine ssl-mode-async ssl-dh-param-file
        ssl-propquery ssl-provider ssl-provider-path ssl-skip-self-issued-ca ssl-load-extra-files
        ssl-load-extra-del-ext ssl-default-bind-ciphers ssl-default-bind-ciphersuites ssl-default-bind-curves
        ssl-default-bind-options ssl-default-bind-sigalgs ssl-default-bind-client-sigalgs ssl-default-server-ciphers
        ssl-default-server-ciphersuites ssl-default-server-options ssl-default-server-curves ssl-security-level
        httpclient.ssl.ca-file httpclient.ssl.verify
        """,
        _TLS_TUNING,
    ),
    **_each(
        """
        h1-accept-payload-with-any-method h1-case-adjust h1-case-adjust-file h2-workaround-bogus-websocket-clients
        httpclient.resolvers.id httpclient.resolvers.prefer httpclient.resolvers.disabled httpclient.retries
        httpclient.timeout.connect maxcompcpuusage maxcomprate maxzlibmem
        """,
        _HTTP_TUNING,
    ),
    **_each("lua-load lua-load-per-thread lua-prepend-path", dropped("no Lua runs in the kernel")),
    **_each("log-send-hostname log-tag", _LOG_DETAIL),
    "log": _LOGGING,
    "stats": exact("kernlb has a control socket of its own: `kernlb status`, `drain`, `weight`"),
    **_each("server-state-base server-state-file", _STATE),
    **_each("spread-checks max-spread-checks", approximated("the starts of checks are spread evenly on their own")),
    **_each(
        "maxconnrate maxsessrate",
        dropped("new connections are not limited by rate: use an nftables `limit rate` rule before kernlb's table"),
    ),
    "51degrees-data-file": _HTTP,
    "deviceatlas-json-file": _HTTP,
    "wurfl-data-file": _HTTP,
}
GLOBAL_PREFIXES = ("tune.", "51degrees-", "deviceatlas-", "wurfl-")
GLOBAL_NEGATABLE = frozenset(
    {"log", "busy-polling", "set-dumpable", "strict-limits", "insecure-fork-wanted", "numa-cpu-mapping"}
)

# Front means the keyword acts on the client's side of a proxy, back on the servers'.
PROXY: dict[str, Remark] = {
    "description": exact("a comment"),
    "id": exact("names are used, not numbers"),
    "enabled": exact(""),
    **_each("capture declare unique-id-format unique-id-header", _LOG_DETAIL),
    **_each("log-format log-format-sd log-tag error-log-format", _LOG_DETAIL),
    "log": _LOGGING,
    **_each("acl tcp-request tcp-response", _FILTER),
    **_each(
        """
        http-request http-response http-after-response redirect compression filter use-fcgi-app
        http-send-name-header monitor-uri monitor http-error errorfile errorfiles errorloc errorloc302 errorloc303
        """,
        _HTTP,
    ),
    "cookie": dropped("cookies are not read: use `balance source`, or persistence by address in kernlb's own file"),
    "http-reuse": _HTTP_TUNING,
    **_each("max-keep-alive-queue retry-on", _HTTP_TUNING),
    "retries": approximated("a connection is not retried by the director: the client's own SYN goes again"),
    "fullconn": approximated("limits of servers do not follow the load"),
    "backlog": _CONNECTION,
    **_each("clitcpka-cnt clitcpka-idle clitcpka-intvl", _CONNECTION),
    **_each("srvtcpka-cnt srvtcpka-idle srvtcpka-intvl", _CONNECTION),
    "bind-process": _PROCESS,
    "email-alert": dropped("no mail is sent: watch the journal or the metrics"),
    **_each("load-server-state-from-file server-state-file-name", _STATE),
    "stats": _STATS,
    **_each("force-persist ignore-persist persist", dropped("nothing persists by cookie here")),
    "use-server": dropped("the kernel chooses a server by the scheduler alone: make it a service of its own"),
    "rate-limit": dropped("use an nftables `limit rate` rule before kernlb's table"),
    "transparent": dropped("the kernel routes what no service takes; nothing to configure"),
    "hash-balance-factor": approximated("a busy server is left by the kernel's limits only"),
    "grace": _PROCESS,
    "block": _HTTP,
}
FRONT_ONLY = _names("""
        backlog bind capture clitcpka-cnt clitcpka-idle clitcpka-intvl declare default_backend log-format
        log-format-sd maxconn monitor monitor-uri rate-limit unique-id-format unique-id-header use_backend
        """)
BACK_ONLY = _names("""
        balance cookie default-server dispatch external-check force-persist fullconn hash-type http-check http-reuse
        http-send-name-header ignore-persist load-server-state-from-file max-keep-alive-queue persist retries
        retry-on server server-state-file-name server-template source srvtcpka-cnt srvtcpka-idle srvtcpka-intvl
        stick tcp-check tcp-response transparent use-fcgi-app use-server hash-balance-factor
        """)
NOT_IN_DEFAULTS = _names("""
        bind capture declare description dispatch filter force-persist id ignore-persist monitor redirect server
        server-template stick stick-table use_backend use-fcgi-app use-server
        """)
NAMED_DEFAULTS_ONLY = _names("acl http-request http-response http-after-response tcp-request tcp-response")

_NO_HTTP = exact("a wish about HTTP, which is forwarded unread")
OPTIONS: dict[str, Remark] = {
    **_each("httplog httpslog tcplog", _LOGGING),
    **_each("dontlog-normal dontlognull log-separate-errors logasap contstats socket-stats", _LOG_DETAIL),
    "log-health-checks": exact("every change of state is logged"),
    **_each(
        """
        accept-invalid-http-request accept-invalid-http-response checkcache disable-h2-upgrade
        h1-case-adjust-bogus-client h1-case-adjust-bogus-server http-buffer-request http-ignore-probes
        http-keep-alive http-no-delay http-pretend-keepalive http-restrict-req-hdr-names http-use-htx
        http-use-proxy-header idle-close-on-response prefer-last-server http-tunnel
        """,
        _NO_HTTP,
    ),
    **_each(
        "http-server-close httpclose forceclose",
        approximated("a whole connection goes to one server, however many requests it carries"),
    ),
    **_each(
        """
        clitcpka srvtcpka tcpka tcp-smart-accept tcp-smart-connect nolinger independent-streams splice-auto
        splice-request splice-response abortonclose
        """,
        _CONNECTION,
    ),
    "forwardfor": dropped('no header is added: with forwarding = "nat" the servers see the client\'s own address'),
    "originalto": dropped("no header is added"),
    "redispatch": approximated("a dead server leaves at once, and the client's next SYN goes elsewhere"),
    "persist": _NO_HTTP,
    "transparent": dropped("the kernel routes what no service takes; nothing to configure"),
    "http_proxy": _HTTP,
    **_each(
        "mysql-check pgsql-check ldap-check spop-check",
        approximated("checked by connecting only; a `command` check can log in"),
    ),
}
NEGATABLE_OPTIONS = _names("""
        abortonclose accept-invalid-http-request accept-invalid-http-response allbackups checkcache clitcpka
        contstats disable-h2-upgrade dontlog-normal dontlognull h1-case-adjust-bogus-client
        h1-case-adjust-bogus-server http-buffer-request http-ignore-probes http-keep-alive http-no-delay
        http-pretend-keepalive http-server-close http-use-htx http-use-proxy-header httpclose forceclose
        idle-close-on-response independent-streams log-health-checks log-separate-errors logasap nolinger persist
        prefer-last-server redispatch socket-stats splice-auto splice-request splice-response srvtcpka
        tcp-smart-accept tcp-smart-connect tcpka transparent http-tunnel httplog tcplog
        """)
OPTIONS_TRANSLATED = _names("httpchk tcp-check smtpchk redis-check ssl-hello-chk external-check allbackups")

IGNORED_SECTIONS: dict[str, str] = {
    "userlist": "no user is asked for a password here: do this on the servers",
    "resolvers": "names are resolved when the file is read; write addresses where they must not move",
    "peers": "two directors share connections with `[sync]` of kernlb's own file",
    "mailers": "no mail is sent: watch the journal or the metrics",
    "cache": "packets are forwarded unread: cache on the servers",
    "program": "run it as a systemd unit",
    "http-errors": "no HTTP answer is made here",
    "ring": "no request is logged here",
    "log-forward": "logs are not forwarded: use a syslog daemon",
    "fcgi-app": "FastCGI is not spoken here: use an HTTP server before it",
    "crt-store": "TLS is not ended here",
    "traces": "nothing is traced",
    "acme": "TLS is not ended here",
    "log-profile": "no request is logged here",
}

SERVER_FLAGS: dict[str, Remark] = {
    **_each(
        """
        allow-0rtt force-sslv3 force-tlsv10 force-tlsv11 force-tlsv12 force-tlsv13 no-sslv3 no-tls-tickets no-tlsv10
        no-tlsv11 no-tlsv12 no-tlsv13 no-ssl-reuse ssl-reuse tls-tickets
        """,
        _TLS_TUNING,
    ),
    **_each("tfo no-tfo", _CONNECTION),
    **_each("stick non-stick", exact("about stick tables that learn; persistence here is by address")),
    **_each("check-via-socks4 check-send-proxy", dropped("the check speaks to the server itself")),
    **_each(
        """
        no-check-send-proxy no-send-proxy no-send-proxy-v2 no-send-proxy-v2-ssl no-send-proxy-v2-ssl-cn
        """,
        exact(""),
    ),
    "usesrc": dropped("see `source`"),
}
SERVER_VALUES: dict[str, Remark] = {
    **_each(
        """
        alpn ciphers ciphersuites crl-file crt curves npn sni ssl-max-ver ssl-min-ver sigalgs client-sigalgs
        """,
        _TLS_TUNING,
    ),
    **_each(
        """
        check-proto proto ws log-proto max-reuse pool-low-conn pool-max-conn pool-purge-delay
        """,
        _CONNECTION,
    ),
    "tcp-ut": _CONNECTION,
    "id": exact("names are used, not numbers"),
    "cookie": dropped("cookies are not read"),
    "redir": _HTTP,
    "maxqueue": approximated("nothing queues in the kernel: past maxconn a connection goes to another server"),
    "minconn": approximated("maxconn holds at any load"),
    "observe": approximated("refused and unanswered connections hasten the next check; answers are not read"),
    **_each("error-limit on-error", approximated("see `observe`")),
    "on-marked-down": approximated("connections of a server that is down are let go at once"),
    "on-marked-up": dropped("connections stay with the server that they have"),
    "proxy-v2-options": _CONNECTION,
    **_each(
        "init-addr resolve-net resolve-opts resolve-prefer resolvers",
        approximated("a name is resolved once, when the file is read"),
    ),
    "guid": exact("a comment"),
}

_BIND_TUNING = exact("about HAProxy's own listening socket, which there is none of")
BIND_FLAGS: dict[str, Remark] = {
    **_each("defer-accept tfo", _BIND_TUNING),
    "transparent": exact("the kernel takes packets to any address that is routed here"),
    "v6only": exact(""),
    **_each(
        """
        allow-0rtt force-sslv3 force-tlsv10 force-tlsv11 force-tlsv12 force-tlsv13 generate-certificates no-alpn
        no-ca-names no-sslv3 no-tls-tickets no-tlsv10 no-tlsv11 no-tlsv12 no-tlsv13 prefer-client-ciphers strict-sni
        prefer-server-ciphers
        """,
        _TLS_TUNING,
    ),
}
BIND_VALUES: dict[str, Remark] = {
    **_each(
        """
        backlog gid group id level mode mss name nbconn nice process proto severity-output shards tcp-ut thread uid
        user expose-fd quic-cc-algo tcp-md5sig
        """,
        _BIND_TUNING,
    ),
    "interface": dropped("a service is bound by address: bind the interface's address instead"),
    "namespace": dropped("run kernlb in that network namespace: `--netns NAME`"),
    "maxconn": dropped("set `maxconn` on the frontend"),
    **_each(
        """
        alpn ca-file ca-ignore-err ca-sign-file ca-sign-pass ca-verify-file ciphers ciphersuites crl-file
        crt-ignore-err crt crt-list curves ecdhe npn ssl-max-ver ssl-min-ver tls-ticket-keys verify sigalgs
        client-sigalgs
        """,
        _TLS_TUNING,
    ),
}
