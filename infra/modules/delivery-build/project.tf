# One CodeBuild project: the words of one buildspec, its own role, its own log.

locals {
  full_name = "${var.platform.name}-${var.purpose}"
}

resource "aws_codebuild_project" "this" {
  # checkov:skip=CKV_AWS_316:only a project that builds images is privileged: Docker needs it, the container is thrown away after each build, and its role reaches nothing but the registry
  name                   = local.full_name
  description            = var.description
  service_role           = aws_iam_role.this.arn
  encryption_key         = var.platform.kms_key_arn
  build_timeout          = var.timeout_minutes
  queued_timeout         = 60
  concurrent_build_limit = 1 # two pipelines at once would push to the same tag

  artifacts {
    type = "CODEPIPELINE"
  }

  source {
    type      = "CODEPIPELINE"
    buildspec = var.buildspec
  }

  environment {
    type            = "LINUX_CONTAINER"
    compute_type    = var.compute_type
    image           = "aws/codebuild/amazonlinux-x86_64-standard:5.0"
    privileged_mode = var.builds_images

    dynamic "environment_variable" {
      for_each = var.environment
      content {
        name  = environment_variable.key
        value = environment_variable.value
      }
    }

    dynamic "environment_variable" {
      for_each = try(var.rolls_out.api_key_secret_arn[*], [])
      content {
        name  = "NEXUS_API_KEY"
        type  = "SECRETS_MANAGER"
        value = environment_variable.value
      }
    }
  }

  logs_config {
    cloudwatch_logs {
      group_name = aws_cloudwatch_log_group.this.name
    }
  }
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/nexus/${var.platform.name}/build/${var.purpose}"
  kms_key_id        = var.platform.kms_key_arn
  retention_in_days = var.log_retention_days
}
