// What a host keeps of its orders, in the agent's own store, so that a Machine whose app has crashed is
// booted again while the API is away: the signed launch spec and the sealed records that were fetched for it.
// No value.
//   space "orders": MACHINE/SPEC_HASH = "cfo2" pieces(u32), MACHINE/SPEC_HASH/N = a piece of the order
#ifndef COFFER_AGENT_KEPT_ORDERS_H
#define COFFER_AGENT_KEPT_ORDERS_H

#include "coffer/agent/reconciler.h"

namespace coffer {

// Thread rule: that of its Storage.
class OrderBook {
 public:
  // `writers`: whose launch specs count.
  OrderBook(Storage store, std::vector<PublicKey> writers)
      : store_(std::move(store)), writers_(std::move(writers)) {}
  const std::vector<PublicKey> &writers() const { return writers_; }
  // From now on what is fetched for the order is kept before it is handed out.  REQUIRES: the book outlives
  // it.
  void keep(BootOrder &);
  Result<BootOrder> find(const std::string &machine, const Hash &spec) const;  // kNotFound
  // Forgets all orders but those of `states`: what runs, what is being booted, what ran before.
  Result<void> tidy(const std::vector<MachineState> &states);

 private:
  Result<void> write(const BootOrder &, const BootOrder::Sealed &);
  Storage store_;
  std::vector<PublicKey> writers_;
};

// The orders of coffer-agent's reconciler: what a Machine ran it is to run, unless it was stopped by order.
class KeptOrders : public Orders {
 public:
  // REQUIRES: both outlive it.
  KeptOrders(Agent &agent, OrderBook &book) : agent_(agent), book_(book) {}
  Result<std::vector<std::string>> finish_cut_off(const MachineState &) override;
  Result<Wanted> look_at(const MachineState &) override;
  Result<RestartPolicy> restart_policy() override;
  Result<BootOutcome> boot_ended() override;

 private:
  Agent &agent_;
  OrderBook &book_;
  MachineState looked_;
};

}  // namespace coffer
#endif
