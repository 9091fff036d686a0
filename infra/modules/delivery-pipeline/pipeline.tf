# From a commit to green: check, image, gate, somebody's word, blue/green. Each step's words are a buildspec in
# infra/delivery/buildspecs, and those call the Makefile: what runs here runs on a laptop and in GitHub Actions.

resource "aws_codepipeline" "this" {
  name           = local.full_name
  role_arn       = aws_iam_role.this.arn
  pipeline_type  = "V2"
  execution_mode = "QUEUED" # every commit is judged, in its order

  artifact_store {
    type     = "S3"
    location = aws_s3_bucket.this.bucket
    encryption_key {
      type = "KMS"
      id   = var.platform.kms_key_arn
    }
  }

  trigger {
    provider_type = "CodeStarSourceConnection"
    git_configuration {
      source_action_name = "Commit"
      push {
        branches {
          includes = [var.source_code.branch]
        }
      }
    }
  }

  stage {
    name = "Source"
    action {
      name             = "Commit"
      category         = "Source"
      owner            = "AWS"
      provider         = "CodeStarSourceConnection"
      version          = "1"
      namespace        = "source"
      output_artifacts = ["source"]
      configuration = {
        ConnectionArn    = var.source_code.connection_arn
        FullRepositoryId = var.source_code.repository
        BranchName       = var.source_code.branch
        DetectChanges    = "false" # the trigger above does
      }
    }
  }

  dynamic "stage" {
    for_each = local.steps
    content {
      name = stage.value.stage
      action {
        name             = stage.value.stage
        category         = "Build"
        owner            = "AWS"
        provider         = "CodeBuild"
        version          = "1"
        namespace        = stage.value.purpose
        input_artifacts  = ["source"]
        output_artifacts = stage.value.outputs
        configuration = {
          ProjectName          = var.projects[stage.value.purpose]
          EnvironmentVariables = jsonencode(stage.value.environment)
        }
      }
    }
  }

  dynamic "stage" {
    for_each = var.needs_approval ? [1] : []
    content {
      name = "Approval"
      action {
        name     = "Release"
        category = "Approval"
        owner    = "AWS"
        provider = "Manual"
        version  = "1"
        configuration = {
          NotificationArn = var.platform.alerts_topic_arn
          CustomData      = "#{image.IMAGE} of commit #{source.CommitId} passed checks, tests, gates, load test and scan."
        }
      }
    }
  }

  stage {
    name = "Deploy"
    action {
      name            = "BlueGreen"
      category        = "Build"
      owner           = "AWS"
      provider        = "CodeBuild"
      version         = "1"
      input_artifacts = ["source", "run"]
      configuration = {
        ProjectName          = var.projects["deploy"]
        PrimarySource        = "source"
        EnvironmentVariables = jsonencode(local.from_image)
      }
    }
  }
}

locals {
  full_name = "${var.platform.name}-delivery"
  from_image = [
    for name in ["IMAGE", "IMAGE_DIGEST"] : { name = name, value = "#{image.${name}}", type = "PLAINTEXT" }
  ]
  steps = [
    { purpose = "check", stage = "Check", outputs = ["run"], environment = [] },
    { purpose = "image", stage = "Image", outputs = [], environment = [
      { name = "COMMIT", value = "#{source.CommitId}", type = "PLAINTEXT" },
    ] },
    { purpose = "gate", stage = "Gate", outputs = ["parts"], environment = local.from_image },
  ]
}
