// Sockets that listen, and what is known of who connects.
#ifndef COFFER_HTTP_LISTEN_H
#define COFFER_HTTP_LISTEN_H

#include <string>

#include "coffer/base/result.h"
#include "server/http/message.h"

namespace coffer::http {

// "HOST:PORT"; non-blocking, errors as of Server::start().  Refuses what is not loopback unless `anywhere`.
Result<int> listen_tcp(const std::string &address, bool anywhere);

void tune_tcp(int fd);  // of a connection, by either side
uint16_t port_of(int fd);
Peer peer_of(int fd, bool is_unix);

}  // namespace coffer::http
#endif
