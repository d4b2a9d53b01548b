// LockedKeys: a key service for several threads, asked by one at a time.
#ifndef COFFER_KEYS_LOCKED_KEYS_H
#define COFFER_KEYS_LOCKED_KEYS_H

#include <memory>
#include <mutex>

#include "coffer/keys/protocol.h"

namespace coffer {

class LockedKeys : public Keys {
 public:
  explicit LockedKeys(std::unique_ptr<Keys> keys) : keys_(std::move(keys)) {}

  Result<AppKey> create_app(std::string_view name) override { return locked()->create_app(name); }
  Result<void> destroy_app(std::string_view name) override { return locked()->destroy_app(name); }
  Result<std::optional<SeenHead>> seen(const AppId &app) const override { return locked()->seen(app); }
  Result<void> advance(const AppId &app, const std::vector<Bytes> &headers) override {
    return locked()->advance(app, headers);
  }
  Result<void> grant(const AppId &app, std::string_view machine, const PublicKey &host,
                     ByteSpan spec) override {
    return locked()->grant(app, machine, host, spec);
  }
  Result<void> revoke(const AppId &app, std::string_view machine) override {
    return locked()->revoke(app, machine);
  }
  Result<Checkpoint> exchange(const Checkpoint &mine) override { return locked()->exchange(mine); }
  Result<AppKey> rotate(const AppId &app, uint32_t from) override { return locked()->rotate(app, from); }
  Result<Bytes> reseal(ByteSpan request) override { return locked()->reseal(request); }
  Result<void> retire(const AppId &app, uint32_t oldest) override { return locked()->retire(app, oldest); }
  Result<Bytes> token(ByteSpan request) override { return locked()->token(request); }
  Result<Bytes> open(ByteSpan request) override { return locked()->open(request); }
  Result<void> enrol(ByteSpan request) override { return locked()->enrol(request); }
  Result<std::vector<KeyInfo>> list() const override { return locked()->list(); }
  Result<void> unlock() override { return locked()->unlock(); }
  Result<std::string> invite(std::string_view name) override { return locked()->invite(name); }
  Result<std::vector<HostInfo>> hosts() const override { return locked()->hosts(); }
  Result<void> revoke_host(std::string_view which) override { return locked()->revoke_host(which); }
  Result<void> rewrap() override { return locked()->rewrap(); }

 private:
  // Held until the end of the expression that asks.
  struct Locked {
    std::unique_lock<std::mutex> lock;
    Keys *keys;
    Keys *operator->() const { return keys; }
  };
  Locked locked() const { return {std::unique_lock(mutex_), keys_.get()}; }

  mutable std::mutex mutex_;
  std::unique_ptr<Keys> keys_;
};

}  // namespace coffer
#endif
