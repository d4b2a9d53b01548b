#include "server/http/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "coffer/posix.hpp"

namespace coffer::http {
namespace {

class TlsChannel : public Channel {
 public:
  TlsChannel(int fd, SSL *tls) : Channel(fd), tls_(tls) {}  // takes both
  ~TlsChannel() override { SSL_free(tls_); }

  ssize_t read(void *to, size_t size) override {
    const sdk::NoSigpipe quiet;  // OpenSSL may write here, with write()
    ERR_clear_error();
    const int n = SSL_read(tls_, to, static_cast<int>(std::min<size_t>(size, INT_MAX)));
    return n > 0 ? n : outcome(n);
  }
  ssize_t write(const void *from, size_t size) override {
    if (size == 0) return 0;
    const sdk::NoSigpipe quiet;
    ERR_clear_error();
    const int n = SSL_write(tls_, from, static_cast<int>(std::min<size_t>(size, INT_MAX)));
    if (n > 0) return n;
    const ssize_t result = outcome(n);
    return result == 0 ? kBroken : result;
  }
  bool has_ahead() const override { return SSL_has_pending(tls_); }
  bool untrusted() const override { return SSL_get_verify_result(tls_) != X509_V_OK; }
  void finish_writing() override {
    {
      const sdk::NoSigpipe quiet;
      ERR_clear_error();
      if (SSL_is_init_finished(tls_)) SSL_shutdown(tls_);
    }
    Channel::finish_writing();
  }

 private:
  ssize_t outcome(int code) {
    switch (SSL_get_error(tls_, code)) {
      case SSL_ERROR_WANT_READ:
        wants_ = POLLIN;
        return kAgain;
      case SSL_ERROR_WANT_WRITE:
        wants_ = POLLOUT;
        return kAgain;
      case SSL_ERROR_ZERO_RETURN:
        return 0;
      default:
        return kBroken;
    }
  }
  SSL *const tls_;
};

}  // namespace

void Tls::Free::operator()(ssl_ctx_st *context) const { SSL_CTX_free(context); }

namespace {

// Common to both sides.
void set_up(SSL_CTX *context) {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);  // an idle connection costs 10 KB instead of 40
}

Error bad_file(const char *what, const std::string &file) {
  return {::access(file.c_str(), R_OK) == 0 ? ErrorCode::kInvalidArgument : ErrorCode::kNotFound,
          std::string(what) + " " + file + " cannot be used"};
}

bool is_address(const std::string &host) {
  in6_addr any;
  return ::inet_pton(AF_INET, host.c_str(), &any) == 1 || ::inet_pton(AF_INET6, host.c_str(), &any) == 1;
}

}  // namespace

Result<Tls> Tls::server(const std::string &certificate_file, const std::string &key_file) {
  Tls tls(SSL_CTX_new(TLS_server_method()));
  SSL_CTX *const context = tls.context_.get();
  if (!context) return fail(ErrorCode::kInternal, "TLS cannot be set up");
  set_up(context);
  if (SSL_CTX_use_certificate_chain_file(context, certificate_file.c_str()) != 1)
    return std::unexpected(bad_file("the TLS certificate", certificate_file));
  if (SSL_CTX_use_PrivateKey_file(context, key_file.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(context) != 1)
    return std::unexpected(bad_file("the TLS key", key_file));
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  return tls;
}

Result<Tls> Tls::client(const std::string &ca_file) {
  Tls tls(SSL_CTX_new(TLS_client_method()));
  SSL_CTX *const context = tls.context_.get();
  if (!context) return fail(ErrorCode::kInternal, "TLS cannot be set up");
  set_up(context);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  if (ca_file.empty()) {
    if (SSL_CTX_set_default_verify_paths(context) != 1)
      return fail(ErrorCode::kNotFound, "the system's CA certificates cannot be read");
  } else {
    if (SSL_CTX_load_verify_locations(context, ca_file.c_str(), nullptr) != 1)
      return std::unexpected(bad_file("the certificate", ca_file));
    // A certificate that is trusted itself needs nobody above it.
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
  }
  return tls;
}

std::unique_ptr<Channel> Tls::accept(int fd) const {
  SSL *const s = SSL_new(context_.get());
  if (!s) return ::close(fd), nullptr;
  SSL_set_fd(s, fd);
  SSL_set_accept_state(s);
  return std::make_unique<TlsChannel>(fd, s);
}

std::unique_ptr<Channel> Tls::connect(int fd, const std::string &host) const {
  SSL *const s = SSL_new(context_.get());
  if (!s) return ::close(fd), nullptr;
  auto channel = std::make_unique<TlsChannel>(fd, s);
  SSL_set_fd(s, fd);
  SSL_set_connect_state(s);
  const bool named = is_address(host) ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(s), host.c_str()) == 1
                                      : SSL_set_tlsext_host_name(s, host.c_str()) == 1 &&
                                            SSL_set1_host(s, host.c_str()) == 1;
  return named ? std::move(channel) : nullptr;
}

}  // namespace coffer::http
