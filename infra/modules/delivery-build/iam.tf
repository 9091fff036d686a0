# What a build may do: read its input, write its output and its log, and what its purpose needs.

locals {
  account = "${var.platform.region}:${var.platform.account_id}"
  # What `nexus deploy --to ecs` calls.
  roll_out = flatten([for out in var.rolls_out[*] : concat(
    [
      {
        Sid    = "StartRollouts"
        Effect = "Allow"
        Action = [
          "codedeploy:ContinueDeployment", "codedeploy:CreateDeployment", "codedeploy:GetApplicationRevision",
          "codedeploy:GetDeployment", "codedeploy:GetDeploymentConfig", "codedeploy:GetDeploymentGroup",
          "codedeploy:GetDeploymentTarget", "codedeploy:ListDeploymentTargets", "codedeploy:ListDeployments",
          "codedeploy:RegisterApplicationRevision", "codedeploy:StopDeployment",
        ]
        Resource = [
          "arn:aws:codedeploy:${local.account}:application:${out.application_name}",
          "arn:aws:codedeploy:${local.account}:deploymentconfig:${out.deployment_config_name}",
          "arn:aws:codedeploy:${local.account}:deploymentgroup:${out.application_name}/${out.deployment_group_name}",
        ]
      },
      {
        Sid      = "RegisterTaskDefinitions" # a new definition has no ARN yet to be allowed by, and reading knows no resources
        Effect   = "Allow"
        Action   = ["ecs:DescribeTaskDefinition", "ecs:RegisterTaskDefinition"]
        Resource = ["*"]
      },
      {
        Sid      = "LookAtTheService"
        Effect   = "Allow"
        Action   = ["ecs:DescribeServices"]
        Resource = ["arn:aws:ecs:${local.account}:service/${out.cluster_name}/${out.service_name}"]
      },
      {
        Sid      = "LookAtItsTasks"
        Effect   = "Allow"
        Action   = ["ecs:DescribeTasks", "ecs:ListTasks"]
        Resource = ["*"] # ListTasks takes container instances as its resource, and tasks have ids of AWS' own
        Condition = { ArnEquals = {
          "ecs:cluster" = "arn:aws:ecs:${local.account}:cluster/${out.cluster_name}"
        } }
      },
      {
        Sid       = "NameTheTasksRoles"
        Effect    = "Allow"
        Action    = ["iam:PassRole"]
        Resource  = out.task_role_arns
        Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
      },
      {
        Sid      = "WatchTheAlarms"
        Effect   = "Allow"
        Action   = ["cloudwatch:DescribeAlarms"]
        Resource = [for name in out.alarm_names : "arn:aws:cloudwatch:${local.account}:alarm:${name}"]
      },
      {
        Sid      = "StageThePackage"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:ListBucket", "s3:PutObject"]
        Resource = [out.models_bucket_arn, "${out.models_bucket_arn}/*"]
      },
    ],
    [for secret in out.api_key_secret_arn[*] : {
      Sid      = "AskWithAKey"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = [secret]
    }],
  )])
}

resource "aws_iam_role" "this" {
  name                 = "${local.full_name}-build"
  description          = "CodeBuild: ${var.description}"
  permissions_boundary = var.platform.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "codebuild.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.platform.account_id }
        ArnEquals    = { "aws:SourceArn" = "arn:aws:codebuild:${local.account}:project/${local.full_name}" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  name = "build"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "WriteLogs"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = ["arn:aws:logs:${local.account}:log-group:/nexus/${var.platform.name}/build/${var.purpose}:*"]
        },
        {
          Sid      = "ExchangeFiles"
          Effect   = "Allow"
          Action   = ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject"]
          Resource = ["${var.artifact_bucket_arn}/*"]
        },
        {
          Sid       = "EncryptFiles"
          Effect    = "Allow"
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = [var.platform.kms_key_arn]
          Condition = { StringEquals = { "kms:ViaService" = "s3.${var.platform.region}.amazonaws.com" } }
        },
      ],
      length(var.pushes_to) + length(var.reads_scans_of) == 0 ? [] : [{
        Sid      = "LogInToEcr" # the action knows no resources
        Effect   = "Allow"
        Action   = ["ecr:GetAuthorizationToken"]
        Resource = ["*"]
      }],
      length(var.pushes_to) == 0 ? [] : [{
        Sid    = "PushImages"
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:DescribeImages",
          "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
        ]
        Resource = var.pushes_to
      }],
      length(var.reads_scans_of) == 0 ? [] : [{
        Sid      = "ReadScans"
        Effect   = "Allow"
        Action   = ["ecr:DescribeImageScanFindings", "ecr:DescribeImages"]
        Resource = var.reads_scans_of
      }],
      local.roll_out,
    )
  })
}
