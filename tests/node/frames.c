#define _GNU_SOURCE
/* In a guest: `frames send CARD < lines of hex` sends each as a frame, as it is; `frames hear CARD WORD END` prints,
   for each frame that bears WORD-something- in it, that text, until one bears END. */
#include <arpa/inet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_ll place = {.sll_family = AF_PACKET, .sll_protocol = htons(3)};
	char line[8192];
	unsigned char frame[4096];
	int card = socket(AF_PACKET, SOCK_RAW, htons(3));

	setvbuf(stdout, NULL, _IOLBF, 0);
	place.sll_ifindex = if_nametoindex(argv[2]);
	if (card < 0 || bind(card, (struct sockaddr *)&place, sizeof place))
		return perror("frames"), 1;
	if (!strcmp(argv[1], "send")) {
		while (fgets(line, sizeof line, stdin)) {
			int length = 0;
			while (sscanf(line + 2 * length, "%2hhx", frame + length) == 1)
				length++;
			if (length && send(card, frame, length, 0) != length)
				return perror("frames"), 1;
		}
		return puts("frames: sent"), 0;
	}
	struct packet_mreq all = {.mr_ifindex = place.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
	if (setsockopt(card, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all))
		return perror("frames"), 1;
	puts("frames: listening");
	for (;;) {
		ssize_t length = recv(card, frame, sizeof frame, 0);
		unsigned char *found = length < 0 ? NULL : memmem(frame, length, argv[3], strlen(argv[3]));
		char *end;
		if (!found)
			continue;
		snprintf(line, sizeof line, "%.*s", (int)(frame + length - found), found);
		if ((end = strchr(line, '.')))
			*end = 0;
		printf("frames: heard %s\n", line);
		if (strstr(line, argv[4]))
			return 0;
	}
}
