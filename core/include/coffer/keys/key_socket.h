// The key service behind a unix socket: what is said, who says it, who answers.
//   request = u32 size, then: verb(u8) arguments
//   answer  = u32 size, then: code(u32; 0: done) and, done: the result; else message remedy
// Arguments and results are encoded as docs/format.md writes everything.  Requests of one connection are
// answered one after the other.  Who calls is told by the kernel (SO_PEERCRED), never by the request.
#ifndef COFFER_KEYS_KEY_SOCKET_H
#define COFFER_KEYS_KEY_SOCKET_H

#include <sys/types.h>

#include <coffer/posix.hpp>
#include <functional>
#include <memory>

#include "coffer/keys/protocol.h"

namespace coffer {

// What a caller may be; one user can be several.  Everybody may ask to open and to enrol: there the request
// itself is the proof.
enum Callers : unsigned {
  kCallerApi = 1,    // has keys made, grants, revokes, reports headers
  kCallerAgent = 2,  // asks for machine tokens
  kCallerAdmin = 4,  // enrols and revokes hosts
};

inline constexpr size_t kLargestKeyRequest = 256u << 20;  // an open carries the records

// It reports headers: what takes a sync of the disk, comes with every write of a vault, and asks for no key.
bool reports_headers(ByteSpan request);
// Answers one request.  kPermissionDenied for a verb that none of `callers` may use.
Bytes answer_key_request(Keys &, unsigned callers, ByteSpan request);

// The key service as its callers see it.  Connects when it is first asked, and again after the service was
// restarted.  Thread rule: one thread at a time.
class KeyClient : public Keys {
 public:
  explicit KeyClient(std::string socket);
  // `dial` makes a connection to the service `name`, by whatever way.
  KeyClient(std::string name, std::function<Result<sdk::Fd>()> dial);
  KeyClient(KeyClient &&) noexcept;
  ~KeyClient() override;

  Result<AppKey> create_app(std::string_view name) override;
  Result<void> destroy_app(std::string_view name) override;
  Result<std::optional<SeenHead>> seen(const AppId &) const override;
  Result<void> advance(const AppId &, const std::vector<Bytes> &headers) override;
  Result<void> grant(const AppId &, std::string_view machine, const PublicKey &host,
                     ByteSpan signed_spec) override;
  Result<void> revoke(const AppId &, std::string_view machine) override;
  Result<Checkpoint> exchange(const Checkpoint &mine) override;
  Result<Bytes> token(ByteSpan signed_request) override;
  Result<Bytes> open(ByteSpan signed_request) override;
  Result<void> enrol(ByteSpan signed_request) override;
  Result<std::vector<KeyInfo>> list() const override;
  Result<void> unlock() override;
  Result<std::string> invite(std::string_view name) override;
  Result<std::vector<HostInfo>> hosts() const override;
  Result<void> revoke_host(std::string_view which) override;
  Result<AppKey> rotate(const AppId &, uint32_t from) override;
  Result<Bytes> reseal(ByteSpan request) override;
  Result<void> retire(const AppId &, uint32_t oldest) override;
  Result<void> rewrap() override;

 private:
  Result<Bytes> ask(Bytes request) const;
  struct Connection;
  std::unique_ptr<Connection> connection_;
};

// One thread answers all, so nobody waits for a slow sender; reports of headers are done beside it, so that
// the disk syncs for many of them at once, and what else is asked does not wait for that.
class KeyServer {
 public:
  struct Config {
    std::string socket;              // made anew; open to every user of the host
    std::vector<uid_t> api, agents;  // beside these: root and the service's own user are administrators
    size_t connections_per_user = 64;
    // One more service on the same store, for reports of headers; absent: they are answered like all else.
    std::function<Result<std::unique_ptr<Keys>>()> beside = {};
  };
  // kInvalidArgument when a user of `api` would be administrator, too: who enrols a host can have everything
  // opened.
  static Result<void> check(const Config &);
  // kAlreadyExists when somebody listens there.
  // REQUIRES: the service outlives it.
  static Result<KeyServer> listen(Config, Keys &);
  KeyServer(KeyServer &&) noexcept;
  ~KeyServer();  // removes the socket
  // Answers until `stop_fd` is readable.
  Result<void> run(int stop_fd);

 private:
  struct State;
  explicit KeyServer(std::unique_ptr<State>);
  std::unique_ptr<State> state_;
};

}  // namespace coffer
#endif
