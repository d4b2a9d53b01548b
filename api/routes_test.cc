// Who may ask what.  The table is docs/api.md's, written down again by hand: the code is held against it.
#include "routes.h"

#include "coffer/base/json.h"
#include "server/http/client.h"
#include "test_world.h"

namespace coffer::api {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;

struct Route {
  const char *method, *target, *word;  // "": any token may
  int status;                          // of what is allowed
  std::string body = {};
  bool upgrade = false;
};

class RoutesTest : public testing::Test {
 protected:
  RoutesTest() {
    world_.stop_api();
    world_.stop_host();
    world_.accept_plaintext = true;
    world_.start_api();
    world_.start_host();
    Remote us(world_);
    for (const char *name : {"web", "other", "doomed"}) EXPECT_TRUE(ok(us.control.create_app(name)));
    const App web = *us.control.app("web");
    EXPECT_TRUE(ok(us.control.write(web, sealed(us.control, web, {{"A", "1"}}), {})));
    for (const char *name : {"one", "doomed"}) {
      MachineConfig c;
      c.name = name;
      c.image = c.image_name = "host";
      EXPECT_TRUE(ok(us.control.run(web, std::move(c), false)));
    }
    JsonWriter j;
    j.begin_object().key("set").begin_array();
    for (const SealedSecret &s : sealed(us.control, web, {{"B", "1"}})) write(j, s);
    j.end_array().end_object();
    sealed_ = j.str();
    JsonWriter run;
    write(run, HandOver{{"A"}, {host_key().public_key(), Ticket{1}}});
    run_ = run.str();
    EXPECT_TRUE(ok(world_.authority()->create("victim", "ann", {}, Rights())));
    client_ = *http::Client::open({.url = world_.url()});
  }

  // One of each route.  What ends something has something of its own to end.
  std::vector<Route> routes() const {
    return {
        {"GET", "/v1/apps", "list", 200},
        {"POST", "/v1/apps", "admin", 201, R"({"name": "new"})"},
        {"GET", "/v1/apps/web", "list", 200},
        {"DELETE", "/v1/apps/doomed", "admin", 200},
        {"GET", "/v1/apps/web/key", "list", 200},
        {"GET", "/v1/apps/web/digest_key", "set", 200},
        {"GET", "/v1/apps/web/secrets", "list", 200},
        {"POST", "/v1/apps/web/secrets/sealed", "set", 200, sealed_},
        {"POST", "/v1/apps/web/secrets", "set", 200, R"({"values": {"C": "1"}})"},
        {"GET", "/v1/apps/web/secrets/plan", "list", 200},
        {"GET", "/v1/apps/web/secrets/history", "list", 200},
        {"GET", "/v1/apps/web/releases", "list", 200},
        {"POST", "/v1/apps/web/secrets/rollback", "set", 200, "{}"},
        {"POST", "/v1/apps/web/deploy", "deploy", 200, R"({"force": true})"},
        {"POST", "/v1/apps/web/secrets/purge", "set", 200, R"({"name": "A"})"},
        {"POST", "/v1/apps/web/run", "run", 200, run_},
        {"POST", "/v1/apps/web/keys/rotate", "keys", 200, "{}"},
        {"GET", "/v1/apps/web/machines", "list", 200},
        {"GET", "/v1/apps/web/machines/one", "list", 200},
        {"POST", "/v1/apps/web/machines", "machine", 201, R"({"name": "new", "config": {"image": "host"}})"},
        {"POST", "/v1/apps/web/machines/one/restart", "machine", 200},
        {"POST", "/v1/apps/web/machines/one/stop", "machine", 200},
        {"POST", "/v1/apps/web/machines/one/start", "machine", 200},
        {"DELETE", "/v1/apps/web/machines/doomed", "machine", 200},
        {"GET", "/v1/apps/web/machines/one/wait?state=started&timeout=0", "list", 200},
        {"GET", "/v1/apps/web/machines/one/logs", "machine", 101, "", true},
        {"GET", "/v1/apps/web/machines/one/exec", "exec", 101, "", true},
        {"GET", "/v1/tokens/current", "", 200},
        {"GET", "/v1/tokens", "token", 200},
        {"POST", "/v1/tokens", "token", 201, R"({"name": "made", "caveats": ["allow = token"]})"},
        {"DELETE", "/v1/tokens/victim", "token", 200},
        {"GET", "/v1/audit", "audit", 200},
    };
  }
  struct Said {
    int status;
    std::string body;
  };
  // `authorization`: the header; nullopt: none.
  Said ask(const Route &r, const std::optional<std::string> &authorization) const {
    http::Call call;
    call.method = r.method;
    call.target = r.target;
    call.body = r.body;
    if (authorization) call.headers.add("Authorization", *authorization);
    if (r.upgrade) {
      http::Answer refused;
      const auto connection = client_->upgrade(call, refused);
      EXPECT_TRUE(ok(connection)) << r.target;
      if (connection && *connection) return {101, ""};
      return {refused.status, std::string(http::view(refused.body))};
    }
    const auto answer = client_->call(call);
    EXPECT_TRUE(ok(answer)) << r.target;
    if (!answer) return {0, ""};
    return {answer->status, std::string(http::view(answer->body))};
  }
  static std::string bearer(const std::string &token) { return "Bearer " + token; }
  // All that a request could change: the vault's bytes, the key service's and the host's stores, and what the
  // runtime was told.
  std::string state() const {
    std::string all;
    for (const char *file : {"vault.db", "vault.db-wal", "keys/calls", "agent/calls", "runtime/calls",
                             "runtime/image", "token.revoked"}) {
      std::ifstream in(world_.folder.path() / file, std::ios::binary);
      const std::string bytes(std::istreambuf_iterator<char>(in), {});
      all += std::string(file) + " " + hex(sha256(as_bytes(bytes))) + "\n";
    }
    return all;
  }

  World world_;
  std::string sealed_, run_;
  std::unique_ptr<http::Client> client_;
};

TEST_F(RoutesTest, ExactlyTheWordOfARouteOpensItAndWhatIsRefusedChangesNothing) {
  std::map<std::string, std::string> tokens, others;
  for (const std::string_view word : kRightWords) {
    const std::string own(word);
    std::vector<std::string> rest;
    for (const std::string_view other : kRightWords)
      if (other != word) rest.emplace_back(other);
    tokens[own] = world_.token({allow_caveat(std::array{own})});
    others[own] = world_.token({allow_caveat(rest)});
  }
  ASSERT_EQ(tokens.size(), 10u);
  size_t refused = 0, passed = 0;
  for (const Route &r : routes()) {
    SCOPED_TRACE(std::string(r.method) + " " + r.target);
    const std::string word = r.word, before = state();
    const auto expect_refused = [&](const std::string &token) {
      const Said said = ask(r, bearer(token));
      EXPECT_EQ(said.status, 403) << said.body;
      EXPECT_THAT(said.body, AllOf(HasSubstr("\"permission_denied\""), HasSubstr("`" + word + "`")));
      ++refused;
    };
    for (const auto &[other, token] : tokens) {
      SCOPED_TRACE(other);
      if (word.empty())
        EXPECT_EQ(ask(r, bearer(token)).status, r.status);
      else if (other != word)
        expect_refused(token);
    }
    if (!word.empty()) expect_refused(others[word]);
    EXPECT_EQ(state(), before);
    if (word.empty()) continue;
    const Said said = ask(r, bearer(tokens[word]));
    EXPECT_EQ(said.status, r.status) << said.body;
    ++passed;
    // The control: what changes something is seen to.
    if (r.method != std::string("GET")) {
      EXPECT_NE(state(), before);
    }
  }
  EXPECT_EQ(refused, 31u * 10);
  EXPECT_EQ(passed, 31u);
  // There is nothing to end, and nothing to go back to.
  for (const char *path :
       {"/v1/apps/web/deploy/resume", "/v1/apps/web/deploy/abort", "/v1/apps/web/releases/rollback"}) {
    const Route r{"POST", path, "deploy", 404, "{}"};
    EXPECT_EQ(ask(r, bearer(others["deploy"])).status, 403) << path;
    EXPECT_EQ(ask(r, bearer(tokens["deploy"])).status, 404) << path;
  }
}

TEST_F(RoutesTest, WhatIsNoTokenOfOursOpensNothing) {
  const std::string good = world_.token();
  const auto narrowed = [&](const std::string &caveat) {
    Macaroon m = *Macaroon::parse_text(good);
    EXPECT_TRUE(ok(m.narrow(caveat)));
    return m.text();
  };
  std::string changed = good;
  changed[changed.size() - 5] = changed[changed.size() - 5] == 'A' ? 'B' : 'A';
  // A right taken out of a narrowed token, its signature kept.
  Bytes widened = Macaroon::parse_text(narrowed("allow = list"))->binary();
  const std::string_view text = as_text(widened);
  const size_t at = text.find("allow = list");
  ASSERT_NE(at, text.npos);
  std::copy_n("allow = keys", 12, widened.begin() + static_cast<std::ptrdiff_t>(at));
  const std::string other_word = Macaroon::parse(widened)->text();
  const std::string foreign =
      TokenAuthority::open(*world_.storage("vault"), SecretBytes::copy_of(filled<32>(9)),
                           world_.folder.path() / "other.revoked")
          ->create("", "eve", {}, Rights())
          ->token.text();
  const auto revoked = world_.authority()->create("gone", "ann", {}, Rights());
  Macaroon below = *Macaroon::parse_text(revoked->token.text());
  ASSERT_TRUE(ok(below.narrow("allow = list")));
  ASSERT_TRUE(ok(world_.authority()->revoke("gone")));
  struct Wrong {
    const char *what;
    std::optional<std::string> authorization;
    int status;
  };
  const Wrong all[] = {
      {"no token", std::nullopt, 401},
      {"nothing", "", 401},
      {"no scheme", good, 401},
      {"another scheme", "Basic " + good, 401},
      {"an empty one", "Bearer ", 401},
      {"rubbish", bearer("coffer_abc"), 401},
      {"one bit changed", bearer(changed), 401},
      {"another word", bearer(other_word), 401},
      {"made elsewhere", bearer(foreign), 401},
      {"revoked", bearer(revoked->token.text()), 401},
      {"narrowed from a revoked one", bearer(below.text()), 401},
      {"expired", bearer(narrowed("expires = 2020-01-01T00:00:00Z")), 401},
      {"expired once, whatever it says later", bearer([&] {
         Macaroon m = *Macaroon::parse_text(narrowed("expires = 2020-01-01T00:00:00Z"));
         EXPECT_TRUE(ok(m.narrow("expires = 2099-01-01T00:00:00Z")));
         return m.text();
       }()),
       401},
      {"a caveat that is not understood", bearer(narrowed("ip = 127.0.0.1")), 403},
      {"no word left", bearer([&] {
         Macaroon m = *Macaroon::parse_text(narrowed("allow = list"));
         EXPECT_TRUE(ok(m.narrow("allow = set")));
         return m.text();
       }()),
       403},
  };
  const std::string before = state();
  for (const Route &r : routes())
    for (const Wrong &w : all) {
      SCOPED_TRACE(std::string(r.method) + " " + r.target + ": " + w.what);
      const Said said = ask(r, w.authorization);
      // Who a token is, it says without any word.
      if (*r.word == '\0' && w.what == std::string("no word left")) {
        EXPECT_EQ(said.status, 200);
        continue;
      }
      EXPECT_EQ(said.status, w.status) << said.body;
      EXPECT_THAT(said.body, HasSubstr(w.status == 401 ? "\"unauthenticated\"" : "\"permission_denied\""));
      EXPECT_THAT(said.body, Not(HasSubstr(good.substr(7, 40))));
    }
  EXPECT_EQ(state(), before);
  // The control: it is not the header.
  EXPECT_EQ(ask(routes()[0], bearer(good)).status, 200);
}

TEST_F(RoutesTest, ATokenForOtherAppsOpensNothingOfThisOneNorOfAll) {
  const std::string other = world_.token({app_caveat(std::array{std::string("other")})});
  const std::string before = state();
  for (const Route &r : routes()) {
    const std::string target = r.target;
    SCOPED_TRACE(r.method + (" " + target));
    const Said said = ask(r, bearer(other));
    if (*r.word == '\0') {
      EXPECT_EQ(said.status, 200);
    } else if (r.method == std::string("GET") && (target == "/v1/apps" || target == "/v1/audit")) {
      // Of all Apps, and of what was done, those that it is for.
      EXPECT_EQ(said.status, 200);
      EXPECT_THAT(said.body, AllOf(HasSubstr("\"other\""), Not(HasSubstr("web")), Not(HasSubstr("doomed"))));
    } else {
      EXPECT_EQ(said.status, 403) << said.body;
    }
  }
  EXPECT_EQ(state(), before);
  EXPECT_EQ(ask({"GET", "/v1/apps/other", "list", 200}, bearer(other)).status, 200);
  // It learns nothing about which Apps there are.
  EXPECT_EQ(ask({"GET", "/v1/apps/web", "", 0}, bearer(other)).body.find("web"), std::string::npos);
  EXPECT_EQ(ask({"GET", "/v1/apps/absent", "", 0}, bearer(other)).body,
            ask({"GET", "/v1/apps/web", "", 0}, bearer(other)).body);
  EXPECT_EQ(ask({"GET", "/v1/audit?app=web", "", 0}, bearer(other)).body, "");
}

TEST_F(RoutesTest, ATokenMakesNoneThatMayMore) {
  const auto make = [&](const std::string &with, const std::string &caveats) {
    const Route r{"POST", "/v1/tokens", "token", 201, R"({"caveats": [)" + caveats + "]}"};
    return ask(r, bearer(with)).status;
  };
  const std::string maker = world_.token({"allow = token,list"});
  EXPECT_EQ(make(maker, ""), 403);
  EXPECT_EQ(make(maker, R"("allow = token,list,set")"), 403);
  EXPECT_EQ(make(maker, R"("allow = list")"), 201);
  const std::string passing = world_.token({"allow = token", "expires = 2098-01-01T00:00:00Z"});
  EXPECT_EQ(make(passing, R"("allow = token")"), 403);
  EXPECT_EQ(make(passing, R"("allow = token", "expires = 2099-01-01T00:00:00Z")"), 403);
  EXPECT_EQ(make(passing, R"("allow = token", "expires = 2097-01-01T00:00:00Z")"), 201);
}

TEST_F(RoutesTest, AConfigIsCheckedFieldByField) {
  const std::string all = bearer(world_.token());
  const std::string before = state();
  const auto ask_for = [&](const std::string &more) {
    const std::string body = R"({"config": {"image": "host", )" + more + "}}";
    return ask({"POST", "/v1/apps/web/machines", "", 400, body.c_str()}, all);
  };
  const std::vector<std::pair<const char *, const char *>> wrong = {
      {R"("secret": [])", "field config: member 2"},
      {R"("secrets": {})", "config.secrets"},
      {R"("secrets": ["A"])", "config.secrets[0]"},
      {R"("secrets": [{"env_var": "A"}])", "config.secrets[0].name"},
      {R"("secrets": [{"name": "A", "value": "A"}])", "config.secrets[0]: member 2"},
      {R"("secrets": [{"name": "A/B"}])", "config.secrets"},
      {R"("secrets": [{"name": "A", "env_var": "COFFER_A"}])", "config.secrets"},
      {R"("secrets": [{"name": "A"}, {"name": "B", "env_var": "A"}])", "variable A is given twice"},
      {R"("checks": [{"type": "tcp", "port": 1}])", "config.checks[0].name"},
      {R"("checks": [{"name": "a", "type": "udp", "port": 1}])", "config.checks[0].type"},
      {R"("checks": [{"name": "a", "type": "", "port": 1}])", "config.checks[0].type"},
      {R"("checks": [{"name": "a b", "type": "tcp", "port": 1}])", "config.checks[0]"},
      {R"("checks": [{"name": "a", "type": "tcp"}])", "config.checks[0]"},
      {R"("checks": [{"name": "a", "type": "tcp", "port": 65536}])", "config.checks[0].port"},
      {R"("checks": [{"name": "a", "type": "tcp", "port": 1, "interval_ms": 0}])", "interval_ms"},
      {R"("checks": [{"name": "a", "type": "tcp", "port": 1, "retries": 0}])", "config.checks[0]: member 4"},
      {R"("checks": [{"name": "a", "type": "http", "port": 1, "path": "up"}])", "config.checks[0]"},
      {R"("checks": [{"name": "a", "type": "command"}])", "config.checks[0]"},
      {R"("files": [{"guest_path": "/a/b", "secret_name": "A", "reload": "signal:"}])",
       "config.files[0].reload"},
      {R"("files": [{"guest_path": "/a/b", "raw_value": "", "reload": "none"}])", "config.files[0].reload"},
      {R"("files": [{"guest_path": "/etc/b", "secret_name": "A", "reload": "none"}])", "folder of its own"},
  };
  for (const auto &[more, said] : wrong) {
    const auto answer = ask_for(more);
    EXPECT_EQ(answer.status, 400) << more;
    EXPECT_THAT(answer.body, HasSubstr(said)) << more;
  }
  EXPECT_EQ(state(), before);
  EXPECT_EQ(ask_for(R"("secrets": [], "checks": [{"name": "a", "type": "http", "port": 1}])").status, 201);
}

TEST_F(RoutesTest, OnlyWhatIsInTheTableIsThere) {
  const std::string all = bearer(world_.token());
  const std::string before = state();
  for (const Route &r : routes()) {
    const std::string path = std::string(r.target).substr(0, std::string(r.target).find('?'));
    for (const char *method : {"GET", "POST", "PUT", "PATCH", "DELETE"}) {
      const auto same = [&](const Route &known) {
        return known.method == std::string(method) && std::string(known.target).starts_with(path) &&
               (std::string(known.target).size() == path.size() || known.target[path.size()] == '?');
      };
      // A Machine and an App have other names in other rows, and tokens have no GET of their own.
      const bool by_another_row = (path == "/v1/apps/doomed" || path == "/v1/apps/web/machines/doomed") ||
                                  (path == "/v1/apps/web" || path == "/v1/apps/web/machines/one") ||
                                  (path == "/v1/tokens/current" && method == std::string("DELETE"));
      if (std::ranges::any_of(routes(), same) || by_another_row) continue;
      EXPECT_EQ(ask({method, path.c_str(), "", 404}, all).status, 404) << method << " " << path;
    }
  }
  for (const char *target : {"/", "/v1", "/v2/apps", "/v1/apps/web/", "/v1/apps/web/machines/one/kill",
                             "/v1/hosts", "/v1/apps/web/secrets/A", "/v1/apps/WEB"})
    EXPECT_THAT(ask({"GET", target, "", 404}, all).status, AnyOf(404, 400)) << target;
  EXPECT_EQ(ask({"GET", "/healthz", "", 200}, std::nullopt).status, 200);
  EXPECT_EQ(ask({"GET", "/v1/hosts/session", "", 400}, std::nullopt).status, 400);
  EXPECT_EQ(ask({"GET", "/v1/hosts/keys", "", 403, "", true}, std::nullopt).status, 403);
  EXPECT_EQ(state(), before);
}

}  // namespace
}  // namespace coffer::api
