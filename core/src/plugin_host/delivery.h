// Deliveries across the border: how the core hands them out and what it accepts.
#ifndef COFFER_PLUGIN_HOST_DELIVERY_H
#define COFFER_PLUGIN_HOST_DELIVERY_H

#include "bridge.h"
#include "coffer/plugin_host/runtime.h"

namespace coffer::bridge {

// A view of deliveries as the ABI wants them; the values stay where they are.
class RawDeliveries {
 public:
  enum What { kPlaces, kValues };
  RawDeliveries(const std::vector<Delivery> &all, What what) {
    raw_.reserve(all.size());
    for (const Delivery &d : all) {
      raw_.push_back({sizeof(coffer_delivery), d.via,
                      (d.secret ? COFFER_DLV_SECRET : 0u) | (d.has_owner ? COFFER_DLV_OWNER : 0u) |
                          (d.in_folder ? COFFER_DLV_FOLDER : 0u),
                      d.mode, str(d.name), what == kValues ? bytes(d.value.reveal()) : coffer_bytes{}, d.uid,
                      d.gid});
      pointers_.push_back(&raw_.back());
    }
  }
  RawDeliveries(const RawDeliveries &) = delete;
  RawDeliveries &operator=(const RawDeliveries &) = delete;
  const coffer_delivery *const *data() const { return pointers_.data(); }
  size_t size() const { return pointers_.size(); }

 private:
  std::vector<coffer_delivery> raw_;
  std::vector<const coffer_delivery *> pointers_;
};

}  // namespace coffer::bridge
#endif
