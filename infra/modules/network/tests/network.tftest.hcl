mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name                = "nexus-test"
  account_id          = "123456789012"
  region              = "eu-central-1"
  availability_zones  = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  nat                 = "per_zone"
  interface_endpoints = ["ecr.api", "logs"]
  kms_key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  alerts_topic_arn    = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "three_zones_have_their_own_way_out_and_no_public_addresses" {
  assert {
    condition     = length(aws_nat_gateway.this) == 3 && length(aws_route.private_out) == 3
    error_message = "per_zone means one NAT gateway and one route for each zone"
  }
  assert {
    condition     = alltrue([for one in aws_subnet.public : !one.map_public_ip_on_launch])
    error_message = "no machine gets a public address by itself"
  }
  assert {
    condition     = tolist([for one in aws_subnet.private : one.cidr_block]) == tolist(["10.20.0.0/20", "10.20.16.0/20", "10.20.32.0/20"])
    error_message = "private subnets are the first sixteenths"
  }
  assert {
    condition     = tolist([for one in aws_subnet.public : one.cidr_block]) == tolist(["10.20.240.0/24", "10.20.241.0/24", "10.20.242.0/24"])
    error_message = "public subnets are cut from the last sixteenth"
  }
  assert {
    condition = alltrue([
      for one in aws_network_acl_rule.private : one.from_port >= 1024 || one.egress || one.cidr_block == var.vpc_cidr
    ])
    error_message = "nothing outside reaches a low port of a private subnet"
  }
  assert {
    condition     = aws_flow_log.this.traffic_type == "ALL"
    error_message = "refused connections are recorded too"
  }
}

run "without_nat_nothing_leads_out" {
  command = plan
  variables {
    nat                = "none"
    availability_zones = ["eu-central-1a", "eu-central-1b"]
  }
  assert {
    condition     = length(aws_route.private_out) == 0 && length(aws_eip.nat) == 0
    error_message = "none means no route, no gateway, no address to pay"
  }
}

run "wrong_networks_are_refused" {
  command = plan
  variables {
    vpc_cidr           = "10.0.0.0/8"
    availability_zones = ["eu-central-1a"]
    nat                = "two"
    flow_log_days      = 31
  }
  expect_failures = [var.vpc_cidr, var.availability_zones, var.nat, var.flow_log_days]
}
