// The client as a module of its own: client_loader.cc loads it when somebody is asked something.
#include "server/http/module.h"

#include "server/http/client.h"

extern "C" {
[[gnu::visibility("default")]] const char coffer_http_version[] = COFFER_VERSION;
[[gnu::visibility("default")]] coffer::http::OpenedClient *coffer_http_open(
    const coffer::http::ClientConfig &config) {
  return new coffer::http::OpenedClient(coffer::http::Client::open(config));
}
}
