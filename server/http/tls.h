// TLS over a channel, and its settings.  OpenSSL is used in tls.cc only.
#ifndef COFFER_HTTP_TLS_H
#define COFFER_HTTP_TLS_H

#include <memory>
#include <string>

#include "server/http/channel.h"

struct ssl_ctx_st;

namespace coffer::http {

class Tls {
 public:
  // Errors name the file: kNotFound, kInvalidArgument.
  static Result<Tls> server(const std::string &certificate_file, const std::string &key_file);
  // Trusts what `ca_file` holds (a CA, or the very certificate of the other side), or the system's CAs.
  static Result<Tls> client(const std::string &ca_file);
  // `fd` passes into it.  nullptr: no memory.
  std::unique_ptr<Channel> accept(int fd) const;
  std::unique_ptr<Channel> connect(int fd, const std::string &host) const;

 private:
  struct Free {
    void operator()(ssl_ctx_st *) const;
  };
  explicit Tls(ssl_ctx_st *context) : context_(context) {}
  std::unique_ptr<ssl_ctx_st, Free> context_;
};

}  // namespace coffer::http
#endif
