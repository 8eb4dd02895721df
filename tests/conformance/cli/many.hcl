services {
  name    = "api"
  id      = "api-1"
  address = "10.0.0.7"
  port    = 8080
  tags    = ["v1"]

  check {
    id       = "api-tcp"
    name     = "tcp"
    tcp      = "127.0.0.1:1"
    interval = "60s"
    timeout  = "1s"
  }
}

services {
  name    = "api"
  id      = "api-2"
  address = "10.0.0.8"
  port    = 8081
}
