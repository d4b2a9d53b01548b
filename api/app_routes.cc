// Apps and their keys.
#include "coffer/base/names.h"
#include "desk.h"
#include "json.h"

namespace coffer::api {

Answer Desk::list_apps() {
  auto all = control_->apps();
  if (all && caller_.rights.apps())
    std::erase_if(*all, [&](const AppSummary &a) { return !caller_.rights.apps()->contains(a.name); });
  return listed(all);
}
Answer Desk::create_app() {
  COFFER_TRY(const JsonValue root, body({"name"}));
  COFFER_TRY(const JsonValue name, root.at("name"));
  COFFER_TRY(const std::string_view text, name.text());
  return once([&]() -> Answer {
    COFFER_TRY(const App made, control_->create_app(text));
    return answered(control_->about(made), 201);
  });
}
Answer Desk::get_app() {
  COFFER_TRY(const App a, app());
  return answered(control_->about(a));
}
Answer Desk::destroy_app() {
  COFFER_TRY(const App a, app());
  return at_length([this, a]() -> Answer {
    COFFER_CHECK(control_->destroy_app(a));
    config_.changed->notify("");
    return said("destroyed");
  });
}
Answer Desk::app_key() {
  COFFER_TRY(const App a, app());
  JsonWriter j;
  j.begin_object().field("name", a.name()).field("app_id", hex(a.id())).field("epoch", a.key.epoch);
  j.field("created_ms", a.entry.created_ms).field("record", base64(a.signed_key)).end_object();
  return Response::json(j.str());
}
Answer Desk::app_digest_key() {
  COFFER_TRY(const App a, app());
  COFFER_TRY(const SecretBytes key, control_->digest_key(a));
  JsonWriter j;
  j.begin_object().field("digest_key", base64(key.reveal())).end_object();
  return Response::json(j.str());
}
Answer Desk::rotate() {
  COFFER_TRY(const JsonValue root, body({"now"}));
  COFFER_TRY(const bool now, flag(root, "now"));
  COFFER_TRY(const App a, app());
  return at_length([this, a, now] { return answered(control_->rotate(a, now)); });
}

}  // namespace coffer::api
