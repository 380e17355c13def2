// HTTP, by cpp-httplib, with what a server that faces clients needs beside it: a deadline for every request, limits
// that hold before memory is taken, one form of errors, and an end that loses no request.
#pragma once

#include <httplib.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "connections.hpp"
#include "metrics.hpp"
#include "problem.hpp"
#include "socket.hpp"

struct HttpOptions {
  std::size_t connections = 256;
  std::size_t max_body = std::size_t{10} << 20;
  std::size_t body_memory = std::size_t{256} << 20;  ///< For the bodies of all requests together.
  std::chrono::milliseconds timeout{10'000};         ///< To receive a request, and again to send its answer.
  std::chrono::milliseconds idle{5'000};             ///< Between the requests of a connection.
};

class HttpServer : private httplib::Server {
 public:
  using Reply = httplib::Response;
  using Incoming = httplib::Request;

  /// What a handler of POST gets beside the request: its body, its type, and when it began.
  struct Upload {
    std::string body, content_type;
    Clock::time_point began;
  };

  HttpServer(const HttpOptions& options, Metrics& metrics);
  ~HttpServer() override;

  /// Handlers throw Problem for what they do not answer. They are called from many threads.
  void get(const std::string& path, std::function<void(const Incoming&, Reply&)> handler);
  void post(const std::string& path, std::function<void(const Incoming&, Upload, Reply&)> handler);

  /// Binds to a port, or to any free one where it is 0. Returns the port; 0 where it cannot be had.
  int bind(const std::string& host, int port);

  /// Serves until `drain` is done; false where the listening socket failed.
  bool serve();

  /// Finishes the requests that have begun, answers 503 to those that begin, then ends `serve`.
  void drain();

  bool draining() const;

  /// Requests that have begun and are not answered.
  std::size_t in_flight() const;

 private:
  struct Exchange;

  bool process_and_close_socket(socket_t descriptor) override;
  bool next(Socket& socket, Seat seat);
  void check(httplib::Request& request, Exchange& exchange) const;
  std::string read_body(const httplib::ContentReader& reader, Exchange& exchange);
  void fail(Reply& reply, const Problem& problem) const;

  const HttpOptions options_;
  Metrics& metrics_;
  std::map<std::string, std::string> routes_;  // path -> the methods that it allows

  mutable std::mutex mutex_;
  std::condition_variable finished_;
  std::size_t in_flight_ = 0;    // all requests
  std::size_t unfinished_ = 0;   // those that began before draining did
  std::size_t body_memory_ = 0;  // what has arrived of bodies
  bool draining_ = false;
  Clock::time_point closing_ = Clock::time_point::max();
  int wake_;  // readable once draining has begun
};
