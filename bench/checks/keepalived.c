/* What keepalived's socket options meet instead of the kernel, preloaded.
 *
 * NO_IPVS: the kernel has none. Every order is taken for carried out, so nothing is balanced, but the checkers, which do
 * not start without IPVS, do all their work. (Where netlink knows no IPVS, keepalived falls back to socket options.)
 * NO_LINGER: its sockets linger no more, as since 2.3.2. Before, it waited in close() for an answer to each FIN.
 */
#include <linux/ip_vs.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_ipvs(int level, int name)
{
	return level == IPPROTO_IP && name >= IP_VS_BASE_CTL && name <= IP_VS_SO_SET_MAX;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	if (NO_IPVS && is_ipvs(level, name))
		return 0;
	if (NO_LINGER && level == SOL_SOCKET && name == SO_LINGER)
		return 0;
	return syscall(SYS_setsockopt, fd, level, name, value, length);
}

int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict length)
{
	if (NO_IPVS && is_ipvs(level, name)) {
		memset(value, 0, *length);
		return 0;
	}
	return syscall(SYS_getsockopt, fd, level, name, value, length);
}
