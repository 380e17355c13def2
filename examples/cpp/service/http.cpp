#include "http.hpp"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>

#include "multipart.hpp"

using namespace std::chrono_literals;

namespace {

constexpr std::size_t longest_head = 8192;
constexpr std::chrono::milliseconds linger_time = 2s, grace = 500ms;
constexpr const char* no_room = "there is no room for this request";

/// cpp-httplib calls handlers with the request alone; the rest of the exchange that a thread is in is found here.
thread_local void* current = nullptr;

}  // namespace

/// One request and its answer.
struct HttpServer::Exchange {
  HttpServer& server;
  Socket& socket;
  const Clock::time_point began = Clock::now();
  std::optional<Problem> refusal;  // decided before the body was read
  std::string path = "other", content_type;
  std::size_t length = 0, reserved = 0;  // of the body: as announced, and what has been taken from the memory of all
  bool chunked = false;
  bool close = true;  // whether the connection ends here, as it does when what follows is not known
  bool late = false;

  Exchange(HttpServer& server, Socket& socket) : server(server), socket(socket) {
    const std::lock_guard lock(server.mutex_);
    late = server.draining_;
    ++server.in_flight_;
    if (!late) ++server.unfinished_;
    current = this;
  }
  ~Exchange() {
    current = nullptr;
    const std::lock_guard lock(server.mutex_);
    server.body_memory_ -= reserved;
    --server.in_flight_;
    if (!late && --server.unfinished_ == 0) server.finished_.notify_all();
  }
  Exchange(const Exchange&) = delete;

  static Exchange& now() { return *static_cast<Exchange*>(current); }

  void refuse(int status, const char* code, const std::string& message) { refusal.emplace(status, code, message); }

  /// Tells whether memory for a body could be had.
  bool room(std::size_t size) const {
    const std::lock_guard lock(server.mutex_);
    return size <= server.options_.body_memory - server.body_memory_;
  }

  /// Takes memory for what has arrived of a body, if it can be had.
  bool reserve(std::size_t size) {
    const std::lock_guard lock(server.mutex_);
    if (size > server.options_.body_memory - server.body_memory_) return false;
    server.body_memory_ += size;
    reserved += size;
    return true;
  }
};

HttpServer::HttpServer(const HttpOptions& options, Metrics& metrics)
    : options_(options), metrics_(metrics), wake_(eventfd(0, EFD_CLOEXEC)) {
  if (wake_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  // Not SO_REUSEPORT, cpp-httplib's default: with it a second server on the same port would start, and take half.
  set_socket_options([](socket_t descriptor) {
    const int yes = 1;
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  new_task_queue = [this] { return new Connections(options_.connections); };
  set_expect_100_continue_handler([this](const Incoming&, Reply& reply) {
    const Exchange& exchange = Exchange::now();
    if (!exchange.refusal) return 100;
    fail(reply, *exchange.refusal);
    return reply.status;
  });
  set_pre_routing_handler([](const Incoming&, Reply&) {
    if (Exchange::now().refusal) throw *Exchange::now().refusal;
    return HandlerResponse::Unhandled;
  });
  set_exception_handler([this](const Incoming&, Reply& reply, std::exception_ptr thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Problem& problem) {
      fail(reply, problem);
    } catch (const std::bad_alloc&) {
      fail(reply, {503, "out_of_memory", "there is no memory for this request"});
    } catch (const std::exception& error) {
      std::cerr << "saliport_service: " << error.what() << std::endl;  // for the operator, not for the client
      fail(reply, {500, "internal", "the request failed; the service's log says why"});
    }
  });
  // What cpp-httplib itself refuses: a request line or headers that it cannot read.
  set_error_handler([this](const Incoming&, Reply& reply) {
    if (reply.body.empty()) fail(reply, {reply.status, "bad_request", "the request is not well-formed HTTP/1.1"});
  });
  set_post_routing_handler([this](const Incoming&, Reply& reply) {
    Exchange& exchange = Exchange::now();
    if (draining()) exchange.close = true;
    reply.headers.erase("Keep-Alive");  // cpp-httplib's own limits, which do not hold here
    if (exchange.close) {
      reply.headers.erase("Connection");
      reply.set_header("Connection", "close");
    }
    metrics_.answered(exchange.path, reply.status);
    exchange.socket.set_deadline(Clock::now() + options_.timeout);
  });
}

HttpServer::~HttpServer() { close(wake_); }

void HttpServer::get(const std::string& path, std::function<void(const Incoming&, Reply&)> handler) {
  routes_[path] = "GET, HEAD";
  Get(path, std::move(handler));
}

void HttpServer::post(const std::string& path, std::function<void(const Incoming&, Upload, Reply&)> handler) {
  routes_[path] = "POST";
  Post(path, [this, handler](const Incoming& request, Reply& reply, const httplib::ContentReader& reader) {
    Exchange& exchange = Exchange::now();
    Upload upload{read_body(reader, exchange), exchange.content_type, exchange.began};
    handler(request, std::move(upload), reply);
  });
}

int HttpServer::bind(const std::string& host, int port) {
  const int bound = port == 0 ? bind_to_any_port(host) : bind_to_port(host, port) ? port : 0;
  if (bound <= 0) return 0;
  ::listen(svr_sock_, 1024);  // cpp-httplib's own backlog is 5
  return bound;
}

bool HttpServer::serve() { return listen_after_bind(); }

void HttpServer::drain() {
  {
    std::unique_lock lock(mutex_);
    draining_ = true;
    closing_ = Clock::now() + grace;
    const std::uint64_t one = 1;
    if (write(wake_, &one, sizeof one) < 0) std::cerr << "saliport_service: eventfd cannot be written\n";
    finished_.wait(lock, [this] { return unfinished_ == 0; });
  }
  std::this_thread::sleep_until(closing_);  // what clients have sent by now is refused in words, not by a reset
  stop();
}

bool HttpServer::draining() const {
  const std::lock_guard lock(mutex_);
  return draining_;
}

std::size_t HttpServer::in_flight() const {
  const std::lock_guard lock(mutex_);
  return in_flight_;
}

bool HttpServer::process_and_close_socket(socket_t descriptor) {
  Socket socket(descriptor);
  const Seat seat = Connections::seat();
  if (seat == Seat::dropped) {
    metrics_.rejected("connections");
    return false;
  }
  while (next(socket, seat)) continue;
  return true;
}

/// Waits for a request on a connection and answers it; false where the connection is at its end.
bool HttpServer::next(Socket& socket, Seat seat) {
  if (!socket.wait(Clock::now() + options_.idle, wake_)) {
    if (!draining() || !socket.wait(closing_, -1)) return false;
  }
  Exchange exchange(*this, socket);
  const bool brief = exchange.late || seat == Seat::refused;
  const auto patience = brief ? std::min<std::chrono::milliseconds>(1s, options_.timeout) : options_.timeout;
  socket.set_deadline(exchange.began + patience);

  const Socket::Head head = socket.read_head(longest_head);
  if (head == Socket::Head::closed) return false;
  if (head == Socket::Head::malformed)
    exchange.refuse(400, "bad_request", "the request is not well-formed HTTP/1.1");
  else if (head == Socket::Head::too_long)
    exchange.refuse(431, "head_too_long", "request line and headers exceed " + std::to_string(longest_head) + " bytes");
  else if (head == Socket::Head::timed_out)
    exchange.refuse(408, "timeout", "the request did not arrive in time");
  else if (exchange.late)
    exchange.refuse(503, "shutting_down", "the service is shutting down");
  else if (seat == Seat::refused)
    exchange.refuse(503, "busy", "there are too many connections");
  if (exchange.late) metrics_.rejected("shutdown");
  if (seat == Seat::refused) metrics_.rejected("connections");
  // cpp-httplib must have something to answer: all refusals go out through it.
  if (head != Socket::Head::complete) socket.replace_head("GET / HTTP/1.1\r\n\r\n");

  bool unused = false;
  const bool answered = process_request(socket, false, unused, [&](Incoming& request) { check(request, exchange); });
  if (answered && !exchange.close && !draining()) return true;
  if (answered) socket.linger(Clock::now() + std::min<std::chrono::milliseconds>(linger_time, options_.timeout));
  return false;
}

/// Looks at a request's head: whether it is one that the service answers, and how its body is to be read.
void HttpServer::check(Incoming& request, Exchange& exchange) const {
  const auto header = [&](const char* name) { return request.get_header_value(name); };
  exchange.content_type = header("Content-Type");
  const std::string length = header("Content-Length"), encoding = header("Transfer-Encoding");
  const bool has_body = request.has_header("Content-Length") || request.has_header("Transfer-Encoding");
  exchange.chunked = same(encoding, "chunked");
  const bool last = request.version == "HTTP/1.0" || same(header("Connection"), "close");
  // cpp-httplib would read forms itself, and compress answers that are small or compressed already.
  request.headers.erase("Content-Type");
  request.headers.erase("Accept-Encoding");

  const auto route = routes_.find(request.path);
  if (route != routes_.end()) exchange.path = request.path;
  const std::string methods = route != routes_.end() ? " " + route->second + "," : "";
  const bool allowed = methods.find(" " + request.method + ",") != std::string::npos;
  const bool post = request.method == "POST";
  if (exchange.refusal) return;

  if (request.get_header_value_count("Content-Length") + request.get_header_value_count("Transfer-Encoding") > 1)
    return exchange.refuse(400, "bad_length", "a request has one Content-Length or one Transfer-Encoding");
  if (request.has_header("Transfer-Encoding") && !exchange.chunked)
    return exchange.refuse(400, "bad_length", "the only Transfer-Encoding is chunked");
  if (request.has_header("Content-Length")) {
    if (length.empty() || length.find_first_not_of("0123456789") != length.npos)
      return exchange.refuse(400, "bad_length", "Content-Length is not a number");
    exchange.length = length.size() > 18 ? SIZE_MAX : std::stoull(length);
  }
  if (route == routes_.end())
    return exchange.refuse(404, "not_found", "there is no such path; there are /v1/explain, /healthz and /metrics");
  if (!allowed)
    return exchange.refuse(405, "method_not_allowed", exchange.path + " answers " + route->second);
  if (!post && has_body && (exchange.chunked || exchange.length > 0))
    return exchange.refuse(400, "unexpected_body", request.method + " has no body");
  if (post && !has_body)
    return exchange.refuse(411, "length_required", "give Content-Length, or send chunks");
  if (exchange.length > options_.max_body)
    return exchange.refuse(413, "body_too_large", "the body may have " + std::to_string(options_.max_body) + " bytes");
  if (request.has_header("Content-Encoding") && !same(header("Content-Encoding"), "identity"))
    return exchange.refuse(415, "unsupported_encoding", "send the body without Content-Encoding");
  if (post && !exchange.room(exchange.length)) {  // known before it is sent
    metrics_.rejected("memory");
    return exchange.refuse(503, "busy", no_room);
  }
  // After chunks the connection ends: cpp-httplib does not tell whether they were well-formed to the end.
  exchange.close = last || exchange.chunked;
}

std::string HttpServer::read_body(const httplib::ContentReader& reader, Exchange& exchange) {
  std::string body;
  // What is not filled takes no memory, and growing would double it.
  body.reserve(exchange.chunked ? options_.max_body : exchange.length);
  bool too_large = false, busy = false;
  const bool whole = reader([&](const char* data, std::size_t size) {
    too_large = size > options_.max_body - body.size();
    busy = !too_large && !exchange.reserve(size);
    if (too_large || busy) return false;
    body.append(data, size);
    return true;
  });
  if (whole) return body;
  exchange.close = true;
  if (too_large)
    throw Problem(413, "body_too_large", "the body may have " + std::to_string(options_.max_body) + " bytes");
  if (busy) {
    metrics_.rejected("memory");
    throw Problem(503, "busy", no_room);
  }
  if (exchange.socket.timed_out()) throw Problem(408, "timeout", "the request did not arrive in time");
  throw Problem(400, "incomplete_body",
                exchange.chunked  // cpp-httplib does not tell which
                    ? "the chunks end too early, are malformed, or have trailers, which are not read"
                    : "the body ends too early");
}

void HttpServer::fail(Reply& reply, const Problem& problem) const {
  const nlohmann::ordered_json error = {{"code", problem.code}, {"message", problem.what()}};
  reply.status = problem.status;
  reply.headers.clear();
  reply.body.clear();
  if (problem.status == 405) reply.set_header("Allow", routes_.at(Exchange::now().path));
  if (problem.status == 503) reply.set_header("Retry-After", "1");
  // A message may quote what a client sent: bytes that are no UTF-8 are replaced.
  const auto safe = nlohmann::ordered_json::error_handler_t::replace;
  reply.set_content(nlohmann::ordered_json{{"error", error}}.dump(-1, ' ', false, safe), "application/json");
}
