// saliport_service: an artifact behind HTTP. See README.md in this folder.

#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <future>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "explain.hpp"
#include "http.hpp"
#include "metrics.hpp"
#include "multipart.hpp"
#include "options.hpp"
#include "problem.hpp"
#include "workers.hpp"

namespace {

/// What the service is made of, in the order in which it may be taken apart.
struct Service {
  explicit Service(const Options& options)
      : explainer(options.explain), workers(worker_count(options), options.queue), http(options.http, metrics) {
    http.get("/healthz", [this](const HttpServer::Incoming&, HttpServer::Reply& reply) { health(reply); });
    http.get("/metrics", [this](const HttpServer::Incoming&, HttpServer::Reply& reply) { report(reply); });
    http.post("/v1/explain", [this](const HttpServer::Incoming& request, HttpServer::Upload upload,
                                    HttpServer::Reply& reply) { explain(request, upload, reply); });
  }

  static std::size_t worker_count(const Options& options) {
    return options.workers ? options.workers : std::max(1u, std::thread::hardware_concurrency());
  }

  void health(HttpServer::Reply& reply) const {
    if (http.draining()) throw Problem(503, "shutting_down", "the service is shutting down");
    reply.set_content("{\"status\": \"ok\"}", "application/json");
  }

  void report(HttpServer::Reply& reply) const {
    std::ifstream statm("/proc/self/statm");
    double pages = 0, resident = 0;
    statm >> pages >> resident;
    reply.set_content(metrics.text({{"saliport_queue_depth", double(workers.waiting())},
                                    {"saliport_in_flight", double(http.in_flight())},
                                    {"process_resident_memory_bytes", resident * double(sysconf(_SC_PAGESIZE))}}),
                      "text/plain; version=0.0.4");
  }

  void explain(const HttpServer::Incoming& request, const HttpServer::Upload& upload, HttpServer::Reply& reply) {
    Fields fields(request.params.begin(), request.params.end());
    std::string_view image = upload.body;
    const std::string type(trimmed(std::string_view(upload.content_type).substr(0, upload.content_type.find(';'))));
    if (same(type, "multipart/form-data")) {
      bool found = false;
      for (Part& part : parse_multipart(upload.body, upload.content_type)) {
        if (part.name == "image") {
          if (found) throw Problem(400, "repeated_field", "\"image\" is given more than once");
          found = true;
          image = part.content;
        } else {
          fields.emplace_back(part.name, std::string(part.content.substr(0, 1024)));
        }
      }
      if (!found) throw Problem(400, "missing_image", "the form has no field \"image\"");
    } else if (!same(type, "image/png") && !same(type, "image/jpeg")) {
      throw Problem(415, "unsupported_media_type", "send image/png, image/jpeg or multipart/form-data");
    }
    const Query query = explainer.query(fields, request.get_header_value("Accept"));

    // Decoding is a worker's job, too: so the memory that pixels take is bounded by the number of workers.
    auto task = std::make_shared<std::packaged_task<Answer()>>([&] { return explainer.explain(query, image); });
    std::future<Answer> result = task->get_future();
    if (!workers.submit([task] { (*task)(); })) {
      metrics.rejected("queue");
      throw Problem(503, "busy", "too many requests wait already");
    }
    Answer answer = result.get();
    metrics.took(std::chrono::duration<double>(Clock::now() - upload.began).count());
    for (const auto& [name, value] : answer.headers) reply.set_header(name, value);
    reply.set_content(answer.body, answer.content_type);
  }

  Metrics metrics;
  Explainer explainer;
  Workers workers;
  HttpServer http;
};

int run(const Options& options) {
  // Threads must not catch these: one waits for them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  Service service(options);
  const int port = service.http.bind(options.host, options.port);
  if (port == 0) {
    std::cerr << "saliport_service: cannot listen on " << options.host << ':' << options.port << std::endl;
    return 1;
  }
  std::cout << "saliport_service: " << service.explainer.description() << "; http://" << options.host << ':' << port
            << std::endl;

  std::thread ending([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);  // a second one ends the process at once
    std::cout << "saliport_service: finishing " << service.http.in_flight() << " requests" << std::endl;
    service.http.drain();
  });
  const bool ended = service.http.serve();
  if (!ended) {
    std::cerr << "saliport_service: the listening socket failed" << std::endl;
    kill(getpid(), SIGTERM);
  }
  ending.join();
  if (ended) std::cout << "saliport_service: ended" << std::endl;
  return ended ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
#ifdef __GLIBC__
  // By default each thread gets a heap of its own, and none gives back what it once took. The README has the figures.
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_MMAP_THRESHOLD, 256 * 1024);
#endif
  try {
    const Options options = parse_options(count, words);
    if (options.help) {
      std::cout << usage();
      return 0;
    }
    return run(options);
  } catch (const std::invalid_argument& error) {
    std::cerr << "saliport_service: " << error.what() << std::endl;
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "saliport_service: " << error.what() << std::endl;
    return 1;
  }
}
