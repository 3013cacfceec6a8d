/* `packets send ADDRESS PORT SECONDS`: as many datagrams of 64 bytes as go; `packets count PORT`: prints "ready", and,
   once its input ends, how many came. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { MANY = 64 };

int main(int argc, char **argv)
{
	static char bytes[MANY][64];
	struct iovec pieces[MANY];
	struct mmsghdr many[MANY];
	struct sockaddr_in where = {.sin_family = AF_INET};
	int socket_ = socket(AF_INET, SOCK_DGRAM, 0), sending = !strcmp(argv[1], "send"), room = 8 << 20;
	unsigned long count = 0;

	memset(many, 0, sizeof many);
	for (int i = 0; i < MANY; i++) {
		pieces[i] = (struct iovec){bytes[i], sizeof bytes[i]};
		many[i].msg_hdr.msg_iov = pieces + i;
		many[i].msg_hdr.msg_iovlen = 1;
	}
	if (sending) {
		struct timespec now;
		where.sin_port = htons(atoi(argv[3]));
		inet_pton(AF_INET, argv[2], &where.sin_addr);
		if (connect(socket_, (struct sockaddr *)&where, sizeof where))
			return perror("packets"), 1;
		clock_gettime(CLOCK_MONOTONIC, &now);
		double end = now.tv_sec + now.tv_nsec / 1e9 + atof(argv[4]);
		do {
			int sent = sendmmsg(socket_, many, MANY, 0);
			count += sent > 0 ? sent : 0;
			clock_gettime(CLOCK_MONOTONIC, &now);
		} while (now.tv_sec + now.tv_nsec / 1e9 < end);
		return printf("%lu\n", count), 0;
	}
	where.sin_port = htons(atoi(argv[2]));
	setsockopt(socket_, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
	if (bind(socket_, (struct sockaddr *)&where, sizeof where))
		return perror("packets"), 1;
	puts("ready");
	fflush(stdout);
	struct pollfd both[2] = {{0, POLLIN, 0}, {socket_, POLLIN, 0}};
	while (poll(both, 2, -1) > 0) {
		int got = both[1].revents ? recvmmsg(socket_, many, MANY, MSG_DONTWAIT, NULL) : 0;
		count += got > 0 ? got : 0;
		if (both[0].revents && got <= 0)
			break;
	}
	return printf("%lu\n", count), 0;
}
