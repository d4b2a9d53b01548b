// The client as a module of its own: client_loader.cc loads it when somebody is asked something.
#include "server/http/module.h"

#include "server/http/client.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED const char coffer_http_version[sizeof COFFER_VERSION];
const char coffer_http_version[sizeof COFFER_VERSION] = COFFER_VERSION;

EXPORTED coffer::http::OpenedClient *coffer_http_open(const coffer::http::ClientConfig &);
coffer::http::OpenedClient *coffer_http_open(const coffer::http::ClientConfig &config) {
  return new coffer::http::OpenedClient(coffer::http::Client::open(config));
}
