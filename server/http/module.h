// What module.cc exports, and client_loader.cc looks up.  Both are of one build.
#ifndef COFFER_HTTP_MODULE_H
#define COFFER_HTTP_MODULE_H

#include "server/http/client.h"

namespace coffer::http {

using OpenedClient = Result<std::unique_ptr<Client>>;
using OpenClient = OpenedClient *(const ClientConfig &);  // the caller deletes it
inline constexpr char kOpenClient[] = "coffer_http_open", kModuleVersion[] = "coffer_http_version";

}  // namespace coffer::http
#endif
