// The folder of an embedded Coffer: engine.toml, and beside it every key and store.
//   engine.toml            which plugin serves which purpose
//   vault.*  keys.db  agent.db  kms/  machines/        of the plugins
//   api/writer.key  api/digest.key  api/token.root  host/host.key      32 bytes each, mode 0400
//   api/token.revoked                                  ids of revoked user tokens
//   pins/identity  pins/writers                        public keys trusted here, one hex line each
//   audit/api.log  audit/keys.log                      what was done and refused, one JSON line each
//   restore.pending                                    a restore that is not complete
//   client/seen                                        NAME APP_ID EPOCH: what this client has seen
// In server mode each daemon has a home with its own part of it; a user's has engine.toml, pins/identity,
// client/ and
//   user.token                                         what the API is asked with
#ifndef COFFER_CLI_HOME_H
#define COFFER_CLI_HOME_H

#include <filesystem>

#include "coffer/vault/vault.h"

namespace coffer::cli {

class Home {
 public:
  // --engine, $COFFER_HOME/engine.toml, ~/.config/coffer/engine.toml, /etc/coffer/engine.toml.
  static Result<Home> find(const std::string &engine_option);
  // Where `init` puts a new one.
  static Home place(const std::string &engine_option);

  const std::filesystem::path &engine_file() const { return engine_file_; }
  std::filesystem::path dir() const { return engine_file_.parent_path(); }

  // Makes folders and keys that are not there yet; what is there stays.
  Result<void> create() const;
  Result<void> create_client() const;  // of server mode: pins/ and client/ only
  Result<void> write_engine(std::string_view text) const;
  Result<void> pin(const PublicKey &identity) const;

  Result<SecretBytes> writer_seed() const { return key("api/writer.key"); }
  Result<SecretBytes> digest_credential() const { return key("api/digest.key"); }
  Result<SecretBytes> host_seed() const { return key("host/host.key"); }
  Result<SecretBytes> token_root() const { return key("api/token.root"); }
  std::filesystem::path revoked_tokens() const { return dir() / "api/token.revoked"; }
  Result<Pins> pins() const;
  // Of the pins: the key service, and whose manifests and launch specs count.
  Result<PublicKey> identity() const;
  Result<std::vector<PublicKey>> writers() const;
  std::filesystem::path audit_log(std::string_view service) const {
    return dir() / "audit" / (std::string(service) + ".log");
  }

  // For the life of the process: nobody else watches this home's Machines.
  Result<void> lock_host() const;
  // A `coffer agent` watches this home's Machines: it holds a lock on host/agent.lock.
  bool agent_runs() const;

  // A restore was begun and is not complete: what lies here is neither the old vault nor the new one.
  bool restoring() const;
  std::filesystem::path restore_marker() const { return dir() / "restore.pending"; }

  // Compares an App with what was seen before under its name, and remembers it.
  Result<void> check_seen(const App &) const;

 private:
  explicit Home(std::filesystem::path engine_file) : engine_file_(std::move(engine_file)) {}
  Result<SecretBytes> key(std::string_view name) const;
  std::filesystem::path engine_file_;
};

}  // namespace coffer::cli
#endif
