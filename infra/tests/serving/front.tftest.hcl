mock_provider "aws" {
  source = "../mocks-serving"
}

variables {
  platform               = jsondecode(file("./platform.json"))
  certificate_arn        = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
  balancer_arn           = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/nexus-test/0123456789abcdef"
  longest_answer_seconds = 240
}

run "clients_speak_tls_1_2_or_newer_and_port_80_only_redirects" {
  module {
    source = "../../modules/serving-balancer"
  }
  assert {
    condition     = alltrue([for one in [aws_lb_listener.production, aws_lb_listener.test] : one.protocol == "HTTPS" && startswith(one.ssl_policy, "ELBSecurityPolicy-TLS13-1-2-Res")])
    error_message = "both listeners speak TLS 1.3, or 1.2 with forward secrecy"
  }
  assert {
    condition     = aws_lb_listener.redirect.default_action[0].type == "redirect" && aws_lb_listener.redirect.default_action[0].redirect[0].protocol == "HTTPS"
    error_message = "HTTP must redirect"
  }
  assert {
    condition     = aws_lb.this.access_logs[0].enabled && aws_lb.this.drop_invalid_header_fields && aws_lb.this.enable_deletion_protection
    error_message = "access logs on, bad headers dropped, deletion protected"
  }
}

run "open_streams_get_as_long_as_the_longest_answer" {
  module {
    source = "../../modules/serving-balancer"
  }
  assert {
    condition     = aws_lb.this.idle_timeout == 240 && alltrue([for one in aws_lb_target_group.colour : one.deregistration_delay == "240"])
    error_message = "idle timeout and draining are the longest answer"
  }
  assert {
    condition     = alltrue([for one in aws_lb_target_group.colour : one.health_check[0].path == "/ready" && one.health_check[0].matcher == "200"])
    error_message = "readiness is /ready with 200"
  }
  assert {
    condition     = sort(keys(output.target_groups)) == tolist(["blue", "green"])
    error_message = "two target groups"
  }
}

run "the_error_alarm_is_a_rate" {
  module {
    source = "../../modules/serving-balancer"
  }
  assert {
    condition     = anytrue([for one in aws_cloudwatch_metric_alarm.server_errors.metric_query : strcontains(one.expression, "/ requests") if one.return_data == true])
    error_message = "errors are divided by requests"
  }
}

run "the_test_listener_is_closed_to_the_world" {
  module {
    source = "../../modules/serving-balancer"
  }
  assert {
    condition     = [for one in values(aws_vpc_security_group_ingress_rule.test) : one.cidr_ipv4] == ["10.20.0.0/16"]
    error_message = "8443 is open to the VPC only"
  }
}

run "the_test_listener_lets_in_who_is_named_and_never_everybody" {
  command = plan
  module {
    source = "../../modules/serving-balancer"
  }
  variables {
    test_cidrs = ["203.0.113.7/32", "0.0.0.0/0"]
  }
  expect_failures = [var.test_cidrs]
}

run "a_policy_that_still_speaks_tls_1_0_is_refused" {
  command = plan
  module {
    source = "../../modules/serving-balancer"
  }
  variables {
    ssl_policy = "ELBSecurityPolicy-2016-08"
  }
  expect_failures = [var.ssl_policy]
}

run "the_firewall_limits_rates_and_lets_prompts_about_attacks_pass" {
  module {
    source = "../../modules/serving-firewall"
  }
  assert {
    condition     = length(aws_wafv2_web_acl.this.rule) == 4
    error_message = "three managed groups and a rate rule"
  }
  assert {
    condition = alltrue(flatten([
      for rule in aws_wafv2_web_acl.this.rule : [
        for group in rule.statement[0].managed_rule_group_statement : [
          for counted in group.rule_action_override : endswith(counted.name, "_BODY") && length(counted.action_to_use[0].count) == 1
        ]
      ]
    ]))
    error_message = "only rules about bodies count instead of blocking"
  }
  assert {
    condition     = toset([for one in aws_wafv2_web_acl_logging_configuration.this.redacted_fields : one.single_header[0].name]) == toset(["authorization", "cookie", "x-api-key"])
    error_message = "callers' keys must not be logged"
  }
  assert {
    condition     = startswith(aws_cloudwatch_log_group.this.name, "aws-waf-logs-")
    error_message = "WAF logs only to groups of this prefix"
  }
}
