# What is turned away before it reaches the gateway. Bodies are prompts: text about HTML, SQL or Log4j is what people ask
# a model about, and no byte of it is ever interpreted. Rules about bodies therefore count and do not block.

locals {
  managed = {
    ip-reputation = { priority = 10, group = "AWSManagedRulesAmazonIpReputationList", counted = [] }
    known-bad = { priority = 20, group = "AWSManagedRulesKnownBadInputsRuleSet", counted = [
      "JavaDeserializationRCE_BODY", "Log4JRCE_BODY", "ReactJSRCE_BODY",
    ] }
    common = { priority = 30, group = "AWSManagedRulesCommonRuleSet", counted = [
      "CrossSiteScripting_BODY", "EC2MetaDataSSRF_BODY", "GenericLFI_BODY", "GenericRFI_BODY",
      "SizeRestrictions_BODY", # blocks above 8 kB: a long prompt
    ] }
  }
}

resource "aws_wafv2_web_acl" "this" {
  # checkov:skip=CKV_AWS_192:the Log4j rules do block in headers, query and path; in bodies they count, because a prompt may ask about Log4j and nothing here is Java
  name        = var.platform.name
  description = "The API of ${var.platform.name}"
  scope       = "REGIONAL"

  default_action {
    allow {}
  }

  dynamic "rule" {
    for_each = local.managed
    content {
      name     = rule.key
      priority = rule.value.priority

      override_action {
        none {}
      }

      statement {
        managed_rule_group_statement {
          vendor_name = "AWS"
          name        = rule.value.group

          dynamic "rule_action_override" {
            for_each = rule.value.counted
            content {
              name = rule_action_override.value
              action_to_use {
                count {}
              }
            }
          }
        }
      }

      visibility_config {
        metric_name                = rule.key
        cloudwatch_metrics_enabled = true
        sampled_requests_enabled   = false # a sample shows headers, and a header is the key
      }
    }
  }

  rule {
    name     = "rate"
    priority = 40

    action {
      block {
        custom_response {
          response_code = 429
          response_header {
            name  = "retry-after"
            value = "60"
          }
        }
      }
    }

    statement {
      rate_based_statement {
        limit                 = var.requests_per_five_minutes
        evaluation_window_sec = 300
        aggregate_key_type    = "IP"
      }
    }

    visibility_config {
      metric_name                = "rate"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = false
    }
  }

  visibility_config {
    metric_name                = var.platform.name
    cloudwatch_metrics_enabled = true
    sampled_requests_enabled   = false
  }
}

resource "aws_wafv2_web_acl_association" "balancer" {
  resource_arn = var.balancer_arn
  web_acl_arn  = aws_wafv2_web_acl.this.arn
}
