resource "aws_cloudwatch_log_group" "this" {
  name              = "aws-waf-logs-${var.platform.name}" # the prefix is WAF's condition
  kms_key_id        = var.platform.kms_key_arn
  retention_in_days = var.log_retention_days
}

resource "aws_wafv2_web_acl_logging_configuration" "this" {
  resource_arn            = aws_wafv2_web_acl.this.arn
  log_destination_configs = [aws_cloudwatch_log_group.this.arn]

  # Callers' keys travel in these headers.
  dynamic "redacted_fields" {
    for_each = toset(["authorization", "cookie", "x-api-key"])
    content {
      single_header {
        name = redacted_fields.value
      }
    }
  }

  # What passes is in the balancer's access log already.
  logging_filter {
    default_behavior = "DROP"
    filter {
      behavior    = "KEEP"
      requirement = "MEETS_ANY"
      condition {
        action_condition {
          action = "BLOCK"
        }
      }
      condition {
        action_condition {
          action = "COUNT"
        }
      }
    }
  }
}
