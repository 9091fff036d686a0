resource "aws_cloudwatch_log_group" "jobs" {
  name              = "/aws/batch/${var.name}"
  retention_in_days = var.log_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_batch_job_definition" "data" {
  name                  = "${var.name}-data"
  type                  = "container"
  platform_capabilities = ["EC2"]
  propagate_tags        = true

  container_properties = jsonencode({
    image            = var.image
    command          = ["python", "-m", "nexus_llm.cli.glue_job", "--help"] # each submission brings its own
    jobRoleArn       = var.job_role_arn
    executionRoleArn = var.execution_role_arn
    privileged       = false
    resourceRequirements = [
      { type = "VCPU", value = "16" },
      { type = "MEMORY", value = "61440" },
    ]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.jobs.name
        awslogs-stream-prefix = "data"
      }
    }
  })

  retry_strategy {
    attempts = 3
    # A host that AWS takes away is no fault of the job; the job's own 75 asks for another try.
    evaluate_on_exit {
      on_status_reason = "Host EC2*"
      action           = "RETRY"
    }
    evaluate_on_exit {
      on_exit_code = "75"
      action       = "RETRY"
    }
    evaluate_on_exit {
      on_reason = "*"
      action    = "EXIT"
    }
  }
  timeout {
    attempt_duration_seconds = 28800
  }
}

module "failed" {
  source      = "../event-alert"
  name        = "${var.name}-batch-failed"
  description = "A job in a Batch queue of ${var.name} failed after its last attempt."
  runbook     = "failed-job"
  topic_arn   = var.alerts_topic_arn
  pattern = jsonencode({
    source      = ["aws.batch"]
    detail-type = ["Batch Job State Change"]
    detail      = { status = ["FAILED"], jobQueue = [for one in aws_batch_job_queue.this : one.arn] }
  })
}
