// LazyHost: a host that is asked for at the first call, so that a request that touches no Machine needs none.
#ifndef COFFER_API_LAZY_HOST_H
#define COFFER_API_LAZY_HOST_H

#include "coffer/agent/machine_host.h"

namespace coffer::api {

using FindHost = std::function<Result<std::unique_ptr<MachineHost>>()>;

class LazyHost : public MachineHost {
 public:
  explicit LazyHost(FindHost find) : find_(std::move(find)) {}

  // Zeros where there is none: whoever grants to it has asked it for something before.
  const PublicKey &host() const override {
    static const PublicKey kNobody{};
    const auto h = found();
    return h ? (*h)->host() : kNobody;
  }
  Result<std::string> ensure_image(const std::string &image, bool pull) const override {
    COFFER_TRY(MachineHost * h, found());
    return h->ensure_image(image, pull);
  }
  void renew() override { host_.reset(); }
  Result<BootOutcome> boot(const BootOrder &next, const BootOrder *way_back, const Probation &p) override {
    COFFER_TRY(MachineHost * h, found());
    return h->boot(next, way_back, p);
  }
  Result<BootOutcome> boot_again(const BootOrder &previous, std::optional<Hash> instead_of) override {
    COFFER_TRY(MachineHost * h, found());
    return h->boot_again(previous, instead_of);
  }
  Result<BootOutcome> boot_ended(const BootOrder &same, const std::string &instance_id) override {
    COFFER_TRY(MachineHost * h, found());
    return h->boot_ended(same, instance_id);
  }
  Result<void> hand_over(const BootOrder &o, const std::set<std::string> &only,
                         const Ticket &ticket) override {
    COFFER_TRY(MachineHost * h, found());
    return h->hand_over(o, only, ticket);
  }
  Result<void> reserve(const AppId &app, std::string_view app_name, const std::string &machine,
                       std::string_view name) override {
    COFFER_TRY(MachineHost * h, found());
    return h->reserve(app, app_name, machine, name);
  }
  Result<void> stop(const std::string &machine) override {
    COFFER_TRY(MachineHost * h, found());
    return h->stop(machine);
  }
  Result<void> finish_stop(const MachineState &seen) override {
    COFFER_TRY(MachineHost * h, found());
    return h->finish_stop(seen);
  }
  Result<void> announce(const std::string &machine, State next) override {
    COFFER_TRY(MachineHost * h, found());
    return h->announce(machine, next);
  }
  Result<void> finish_cut_off(const std::string &machine) override {
    COFFER_TRY(MachineHost * h, found());
    return h->finish_cut_off(machine);
  }
  Result<void> destroy(const std::string &machine) override {
    COFFER_TRY(MachineHost * h, found());
    return h->destroy(machine);
  }
  Result<std::vector<MachineState>> states() const override {
    COFFER_TRY(MachineHost * h, found());
    return h->states();
  }
  Result<std::optional<MachineState>> state(const std::string &machine) const override {
    COFFER_TRY(MachineHost * h, found());
    return h->state(machine);
  }
  Result<MachineView> view(const MachineState &m) const override {
    COFFER_TRY(MachineHost * h, found());
    return h->view(m);
  }
  Result<std::vector<MachineView>> views(const AppId &app) const override {
    COFFER_TRY(MachineHost * h, found());
    return h->views(app);
  }
  Result<void> logs(const MachineState &m, const LogQuery &query,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) override {
    COFFER_TRY(MachineHost * h, found());
    return h->logs(m, query, each);
  }
  Result<int32_t> exec(const MachineState &m, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) override {
    COFFER_TRY(MachineHost * h, found());
    return h->exec(m, argv, out, in, in_fd);
  }
  Result<void> wait_change(const MachineState &m, uint64_t timeout_ns) override {
    COFFER_TRY(MachineHost * h, found());
    return h->wait_change(m, timeout_ns);
  }

 private:
  Result<MachineHost *> found() const {
    if (!host_) {
      COFFER_TRY(host_, find_());
    }
    return host_.get();
  }
  FindHost find_;
  mutable std::unique_ptr<MachineHost> host_;
};

}  // namespace coffer::api
#endif
