// Unix stream sockets, as the programs of one host find each other.
#ifndef COFFER_BASE_UNIX_SOCKET_H
#define COFFER_BASE_UNIX_SOCKET_H

#include <sys/types.h>

#include <coffer/posix.hpp>
#include <string>

#include "coffer/base/result.h"

namespace coffer {

// Non-blocking, with that mode before the first one can connect.  A socket that nobody listens at any more is
// replaced. kInvalidArgument: no absolute path of at most 107 bytes.  kAlreadyExists: somebody listens there,
// or it is something else.
Result<sdk::Fd> listen_unix(const std::string &path, unsigned mode);
// Blocking.  kUnavailable: nobody listens.  kPermissionDenied: it is not open to this user.
Result<sdk::Fd> connect_unix(const std::string &path);
// Who connected, as the kernel says; -1, which is nobody's number, where it does not.
uid_t peer_uid(int fd);

}  // namespace coffer
#endif
